"""What hooks do when a gradient arrives: at the output of a layer, at its input, at its activation function."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from gradscope.probe.contribution import Contribution, fold_circular
from gradscope.probe.graph import Product
from gradscope.probe.records import ForwardPass, MicroBatch, Reading, Stage
from gradscope.probe.taking import Taker

# Statistics of the gradient of an input serve these three where nothing else joins there.
OUTPUT_GRAD = ("output_grad",)
SENT = ("input_grad_total", "input_grad", "input_overlap", "next_input_grad")


class Arrivals:
    """Records the gradients of one step.

    Args:
        taker: Takes what is wanted of them.
        stage: Which forward pass is on.

    Attributes:
        open: Whether the step still records.
        saw_gradient: Whether any arrived.
        spent: Seconds that the hooks took.
        nested: Backward passes inside others, and inside which.
        begun: Backward passes in which a gradient arrived.
        ended: Those of them that ran to their end.
        wants_total: Whether anything asks for the gradient of an input as a whole.
    """

    def __init__(self, taker: Taker, stage: Stage) -> None:
        self.open = True
        self.saw_gradient = False
        self.spent = 0.0
        self.nested: dict[int, int] = {}
        self.begun: set[int] = set()
        self.ended: set[int] = set()
        plan = taker.plan
        self.wants_total = plan.needs("next_input_grad", "input_grad_total", "input_overlap")
        self._taker = taker
        self._stage = stage
        self._wants = taker.wants
        self._tally = taker.tally
        self._notes_gradient = "output_grad" in taker.wants
        self._tallies_sent = any(one in self._wants for one in SENT)
        self._of_gradient = plan.program("backward", "output_grad", "input_grad")
        self._of_output_gradient = plan.program("backward", "output_grad")
        self._of_contribution = plan.program("backward", "input_grad")
        self._of_total = plan.program("input_total", "input_grad", "input_grad_total")
        self._of_next = plan.program("next", "next_input_grad")

    def _begin(self, task: int) -> None:
        """Learn whether a backward pass ends well: one that raised leaves gradients that the training drops."""
        self.begun.add(task)
        engine: Any = torch.autograd.Variable._execution_engine
        engine.queue_callback(lambda: self.ended.add(task))

    def belonging(self, trained: set[int]) -> set[int]:
        """Return the backward passes that belong together with those that trained something, these included."""
        roots = {self._root(one) for one in trained}
        return trained | {one for one in (*self.nested, *self.nested.values()) if self._root(one) in roots}

    def _root(self, task: int) -> int:
        while task in self.nested:
            task = self.nested[task]
        return task

    def hook_product(
        self, batch: MicroBatch, product: Product, found: Contribution, entry: torch.Size, output: torch.Size
    ) -> None:
        """One hook shows the output gradient and, as a rule, what the call sends back, in the tensors' own shapes.

        Args:
            batch: The call.
            product: The node of its product.
            found: How its own contribution is learnt.
            entry: Shape of its input.
            output: Shape of its output.
        """
        edge, module = product.input_edge, batch.record.layer.module

        def hook(grad_inputs: Any, grad_outputs: Any) -> None:
            grad, sent = grad_outputs[0], grad_inputs[edge]
            if grad is None:
                return
            if sent is not None and found.how == "circular":
                sent = fold_circular(sent, entry, module)
            elif sent is not None and found.how != "product":
                sent = None
            elif sent is not None and sent.shape != entry:
                sent = sent.reshape(entry)
            self.on_gradient(batch, grad if grad.shape == output else grad.reshape(output), sent)

        product.node.register_hook(hook)
        if found.node is not None:
            found.node.register_hook(lambda sent, _: self.on_contribution(batch, sent[0]))

    def on_gradient(self, batch: MicroBatch, grad: Tensor | None, sent: Tensor | None) -> None:
        """Record the gradient of a call's output, with what the call sends back where that is at hand."""
        self.saw_gradient = True
        task = torch._C._current_graph_task_id()
        before = batch.backward.get(task)
        if grad is None or not self.open or (before is not None and before.arrived):
            return
        start = time.perf_counter()
        if not self._stage.inside and self._stage.current.calls:
            # Layers called one by one, outside the model's forward, have no end of pass: their backward ends it.
            self._stage.current = ForwardPass()
        if task not in self.begun:
            self._begin(task)
        layer, reading = batch.record.layer, before or Reading()
        batch.backward[task], reading.arrived = reading, True
        if torch.is_grad_enabled():
            batch.provisional.append(task)
        if batch.within >= 0:
            self.nested[task] = batch.within
        try:
            program = self._of_output_gradient if sent is None else self._of_gradient
            if program.metrics:
                self._taker.measure(program, reading, layer, {"output_grad": grad, "input_grad": sent})
            if self._notes_gradient:
                pile, place = self._tally.add(OUTPUT_GRAD, grad, layer.unit_dim, self._taker.tape)
                reading.notes.append((pile, place, batch.shown))
            if sent is not None:
                if batch.awaits_total:
                    batch.own, batch.own_version = sent, sent._version
                else:
                    self._keep_own(batch, reading, sent)
        except Exception as error:
            self._taker.fault(layer.name, "backward hook", error)
        self.spent += time.perf_counter() - start

    def on_contribution(self, batch: MicroBatch, sent: Tensor | None) -> None:
        """What a call sends back, where a node such as a padding stands between its product and its input."""
        reading = batch.backward.get(torch._C._current_graph_task_id())
        if not self.open or sent is None or reading is None:
            return
        layer = batch.record.layer
        try:
            if self._of_contribution.metrics:
                self._taker.measure(self._of_contribution, reading, layer, {"input_grad": sent})
            self._keep_own(batch, reading, sent)
        except Exception as error:
            self._taker.fault(layer.name, "input gradient hook", error)

    def _keep_own(self, batch: MicroBatch, reading: Reading, sent: Tensor) -> None:
        if batch.awaits_total:
            batch.own, batch.own_version = sent, sent._version
        elif "input_grad" in self._wants:
            self._taker.note("input_grad", sent, batch.record.layer.unit_dim, reading)

    def note_left(self, batch: MicroBatch) -> None:
        """Take what a call sent back, where the gradient of its input was never seen as a whole."""
        if batch.own is not None and "input_grad" in self._wants and batch.backward:
            reading = list(batch.backward.values())[-1]
            self._taker.note("input_grad", batch.own, batch.record.layer.unit_dim, reading)
        batch.own = None

    def on_total(self, batch: MicroBatch, grad: Tensor | None) -> None:
        """Record the gradient of a call's input, all its uses added up."""
        if grad is None or not self.open:
            return
        start = time.perf_counter()
        task = torch._C._current_graph_task_id()
        # The layer itself may not be part of the loss, while what it shares its input with is.
        reading = batch.backward.get(task) or Reading()
        layer = batch.record.layer
        try:
            sent, batch.own = batch.own, None
            if sent is not None and sent._version != batch.own_version:
                sent = None  # a hook of somebody else changed it in place: what it was is not known
            alike = sent is not None and sent.data_ptr() == grad.data_ptr() and sent.shape == grad.shape
            self._note_total(batch, reading, task, grad, sent, alike)
            if self._of_total.metrics:
                tensors = {"input_grad": grad if alike else sent, "input_grad_total": grad}
                self._taker.measure(self._of_total, reading, layer, tensors)
            if self._of_next.metrics and batch.sources:
                told = Reading()
                self._taker.measure(self._of_next, told, layer, {"next_input_grad": grad})
                for parent in batch.sources:
                    parent.told.setdefault(task, Reading()).values = told.values
        except Exception as error:
            self._taker.fault(layer.name, "input gradient hook", error)
        self.spent += time.perf_counter() - start

    def _note_total(
        self, batch: MicroBatch, reading: Reading, task: int, grad: Tensor, sent: Tensor | None, alike: bool
    ) -> None:
        """Take the statistics of the gradient of an input once, for all who ask for them."""
        unit_dim, notes, taker = batch.record.layer.unit_dim, reading.notes, self._taker
        if self._tallies_sent:
            pile, place = taker.tally.add(SENT, grad, unit_dim, taker.tape)
            notes.append((pile, place, "input_grad_total"))
            if alike:
                notes.append((pile, place, "input_grad"))
                notes.append((pile, place, "input_overlap"))
            for parent in batch.sources:
                parent.told[task] = Reading([(pile, place, parent.told_as)])
        if sent is not None and not alike:
            if "input_grad" in self._wants:
                taker.note("input_grad", sent, unit_dim, reading)
            if "input_overlap" in self._wants:
                pile, place = taker.tally.add_overlap(sent, grad, taker.tape)
                notes.append((pile, place, "input_overlap"))
