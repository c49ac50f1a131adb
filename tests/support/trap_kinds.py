"""What users of tools like this one fell into, and which tests show that it does not happen here."""

from __future__ import annotations

# By kind: files, or functions in them.
KINDS: dict[str, tuple[str, ...]] = {
    "gradients that carry the loss scale": ("probe/test_scaling.py", "probe/test_skipped_steps.py"),
    "optimizers that unscale inside their step": (
        "probe/test_scaling.py::test_recorded_values_are_the_same_with_and_without_a_scaler",
        "probe/test_scaler.py::test_a_grad_scale_set_by_hand_is_honoured_and_noticed",
    ),
    "micro-batches taken for steps": (
        "traps/test_parameter_boundary.py::test_the_recorded_gradient_is_what_the_optimizer_applies",
        "probe/test_scaling.py::test_micro_batches_under_a_scaler_equal_the_big_batch",
    ),
    "gradients of one rank taken for the average": ("distributed/test_ddp.py",),
    "shards taken for the whole": ("distributed/test_fsdp.py", "distributed/test_shards.py"),
    "an observer on one rank that hangs all": (
        "distributed/test_ddp.py::test_watching_on_one_rank_neither_hangs_nor_changes_anything",
        "distributed/test_fsdp.py::test_watching_on_one_rank_neither_hangs_nor_records_what_it_cannot_know",
    ),
    "in-place functions that break backward hooks": ("traps/test_in_place.py", "traps/test_shapes.py"),
    "captured tensors overwritten in place": (
        "traps/test_in_place.py::test_in_place_is_the_same_as_out_of_place",
        "traps/test_in_place.py::test_in_place_on_the_input_of_a_layer",
    ),
    "tensors replaced by hooks": ("traps/test_same_tensors.py",),
    "a first layer without rows": ("traps/test_same_tensors.py::test_the_first_layer_has_its_row_at_every_step",),
    "parameters read inside the backward pass": ("traps/test_parameter_boundary.py",),
    "outputs that are no tensor, inputs by keyword": ("traps/test_outputs.py",),
    "layers whose hooks are bypassed": ("traps/test_bypassed.py",),
    "layers that are called again, weights that are tied": ("traps/test_reuse.py",),
    "several passes in one step": ("traps/test_many_passes.py", "traps/test_passes_that_do_not_train.py"),
    "layers frozen and thawed": (
        "traps/test_parameter_boundary.py::test_layers_that_are_thawed_appear",
        "traps/test_parameter_boundary.py::test_frozen_layers_are_said_to_be_frozen",
        "traps/test_parameter_boundary.py::test_a_frozen_weight_has_no_update",
    ),
    "copies and pickles of a watched model": ("traps/test_copies.py",),
    "hooks that pile up": ("traps/test_attachment.py",),
    "two models of one class": (
        "traps/test_attachment.py::test_two_models_of_one_class",
        "traps/test_writing_together.py::test_two_models_of_one_class_stay_apart",
    ),
    "memory that is held": ("traps/test_memory.py", "traps/test_long_training.py", "probe/test_peak_memory.py"),
    "a training that is slowed down": ("probe/test_costs.py", "probe/test_pacing.py"),
    "compiled models": ("probe/test_compile.py",),
    "captured graphs of a GPU": (
        "probe/test_coverage.py::test_a_cuda_graph_is_captured_and_replayed_with_a_probe_attached",
    ),
    "checkpoints that run a forward pass twice": ("traps/test_checkpointing.py",),
    "validation among training passes": (
        "traps/test_many_passes.py::test_validation_in_between_changes_no_row",
        "traps/test_many_passes.py::test_validation_of_another_part",
    ),
    "tensors of nothing but NaN, infinity or zero": (
        "traps/test_dtypes.py::test_any_content_of_any_float_type_is_recorded_and_spoils_no_other_step",
        "traps/test_dtypes.py::test_what_is_not_finite_is_counted_beside_the_histogram",
    ),
    "types of half precision, sparse and complex tensors": ("traps/test_dtypes.py",),
    "deterministic mode": ("traps/test_dtypes.py::test_deterministic_mode_is_respected",),
    "random numbers drawn by the observer": ("traps/test_random_states.py",),
    "replicas of DataParallel": ("distributed/test_wrappers.py::test_replicas_of_data_parallel_do_not_count",),
    "names changed by wrappers": (
        "distributed/test_wrappers.py::test_a_checkpoint_wrapper_adds_nothing_to_names",
        "distributed/test_ddp.py::test_names_are_those_of_the_model",
        "probe/test_compile.py::test_a_model_watched_through_its_compiled_wrapper_is_the_same_model",
    ),
    "a flood of data": ("traps/test_flood.py",),
    "several writers, one folder": ("traps/test_writing_together.py", "traps/test_killed_while_writing.py"),
    "step numbers that drift": ("traps/test_step_numbers.py",),
    "scales that hide what is small": ("traps/test_readable_scales.py",),
    "a page that asks faster than it is answered": (
        "e2e/test_live.py::test_nothing_is_asked_twice_at_once",
        "e2e/test_scale.py::test_polling_leaves_nothing_behind",
    ),
    "NaN and zero on a page": (
        "e2e/test_dashboard.py::test_zero_and_nan_are_marked",
        "e2e/test_scale.py::test_zero_nan_and_skipped_are_marked",
    ),
    "zeros taken for dead units": ("traps/test_units_not_elements.py",),
    "saturation on the wrong side or layer": (
        "traps/test_units_not_elements.py::test_saturation_of_known_inputs",
        "traps/test_units_not_elements.py::test_a_confident_output_layer_is_not_a_saturated_hidden_one",
        "traps/test_units_not_elements.py::test_values_near_one_of_a_layer_without_a_flat_function_are_no_saturation",
    ),
    "verdicts that follow the scale of the loss": ("traps/test_verdicts_that_hold.py",),
    "order of registration taken for that of execution": (
        "traps/test_execution_order.py::test_layers_defined_in_reverse_have_the_depth_of_their_execution",
        "traps/test_execution_order.py::test_branches_have_the_depth_of_their_execution_and_their_parents",
    ),
    "what was not executed stored as zero": (
        "traps/test_execution_order.py::test_what_was_not_executed_is_missing_and_never_zero",
    ),
    "dependencies that are heavy or pinned": ("traps/test_light_dependencies.py",),
    "ports that are taken, servers that are open": ("dashboards/test_server.py",),
    "a gradient logged before clipping": (
        "probe/test_scaling.py::test_clipping_shows_between_the_raw_and_the_applied_gradient",
        "distributed/test_ddp.py::test_what_the_optimizer_applies_is_clipped",
    ),
}


def kinds_of(node: str) -> list[str]:
    """Kinds that a test belongs to.

    Args:
        node: Its id, as pytest gives it.
    """
    name = node.partition("[")[0].removeprefix("tests/")
    return [kind for kind, tests in KINDS.items() if any(name == one or name.startswith(f"{one}::") for one in tests)]
