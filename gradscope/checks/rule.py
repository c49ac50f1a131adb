"""When a network is sick: the rule, its derivation, and its only constants.

**The question.** A gradient that shrinks or grows is not an illness: networks that train well drift, within 150 steps,
to 1.25 to 1.45 per layer towards the input. Sick is a network that does not learn, or that cannot. So every check asks
twice: is there the sign, and does it matter? The sign is a ratio within the run: loss scale, width and batch size drop
out. Whether it matters, the course of the training says (`gradscope.checks.course`), and where it is too early to tell,
what the sign predicts.

**Skill.** Cross-entropy of K classes has a scale of its own: whoever knows nothing of the input pays ln K. Let

    skill = 1 - L / L_chance.

The loss may be multiplied by any c, so c ln K is found in three ways, none of which needs c:

1. *Course.* Logits of standard deviation s that know nothing of the label cost, on the average, c (ln K + x(s)):
   x = s^2/2 up to s = sqrt(2 ln K), then s sqrt(2 ln K) - ln K (free energy of the random energy model, Derrida 1981).
   Hence L_chance = L_0 ln K / (ln K + x(s_0)), never above the first loss. Beyond that edge a single pair of logits
   decides, and L_0 is one draw: there c is read from the error, which is c sqrt(2 - 2/K) when a wild predictor is wrong
   as often as chance has it, and L_chance = (L / e at chance) e_chance.
2. *Surprise per error.* With e = |dL/dz_head| sqrt(N), N samples, a predictor that always says 1/K has
   L / e = ln K / sqrt(1 - 1/K), in which c cancels. Measured: 1.00 +- 0.01 of it in networks that sit at chance, 0.77
   at 36 % accuracy, below 0.4 at 85 %.
3. *Spread.* Losses are convex in the outputs z: L(z_mean) - L(z) <= -grad L(z_mean) (z - z_mean). With s the
   deviation of an output between samples, telling them apart has gained at most e s sqrt(K), whatever the loss and
   its scale; e is that of the constant z_mean; the larger of the first and the last is taken for it. What a loss has
   fallen beyond that, a constant has earned; of a loss of several heads, beyond the sum of their bounds. Logits that
   are as sure as they are right say s^2/2 nats: for a skill of r they have s > sqrt(2 r ln K).

Skill by the course or by the error counts only if the outputs are spread: a constant, too, earns by learning how often
each class comes, or where the targets lie, and knows nothing of the input. Where it must have earned some of the fall,
the outputs have to show by themselves that they tell samples apart. Surprise at chance overrules a course that began
with wild outputs.

For squared errors, L / e^2 is the same at every step, which gives them away; then the share of explained variance is
s^2 / (s^2 + r^2), with the residual r = 2 L / (e sqrt(K)) of an entry; near its minimum every smooth loss is a square,
so outputs of any other unit than nats are held to be spread where this share is above `SKILL`. Where no loss was
logged, e says it: 1 - e^2/e_chance^2 is the Brier skill, and e_chance follows from e_0 as above. A network that told
samples apart from the first step on may have known all there is to know: where its error does not fall, nothing is
said of its progress.

For a network that knows a share f of its samples and nothing of the others, all of these equal f. It learns where
skill > `SKILL` = 1/10. It does not where there is none after `ENOUGH` = 100 steps.

**Forward collapse.** Let s_H be the standard deviation between samples of what the last hidden layer puts out, relative
to its root mean square. The part of the tangent kernel that tells samples apart gets chi^(H-l) s_l^2 from layer l; both
factors decay alike (xi_c = xi_grad in the ordered phase), so each of the H layers gives s_H^2, relative to the part
that all samples share. Its condition number

    kappa = 1 / (H s_H^2)

is how many steps gradient descent needs to tell samples apart when its rate is at the limit of stability of the shared
part. Sigmoid, Xavier, width 64: kappa = 330 with three hidden layers, which learns in 300 steps; 7,700 with four, which
does not. The verdict: kappa above the steps taken; above `REACH` = 1,000 where it is too early to tell.

**Passage.** A layer's part of the tangent kernel goes with |dL/dz_l|^2. Where the error signal changes by D decades
from one end to the other, one end takes part 10^(2 |D|) times as slowly: more than `REACH` = 1,000 steps beyond 1.5
decades. An optimizer that divides by the size of the gradient (Adam) makes up for a gradient that vanishes: where the
updates of the two ends are within 1.5 decades of each other, and the slower one moves by u > 1/`REACH` (below), both
take part. Where phi(c u) = c phi(u), weight gradients are equal in all layers though the error signal vanishes (Du et
al. 2018), but so small that u tells. Such an optimizer preconditions with the inverse root of the gradient's second
moment (Duchi et al. 2011), which leaves sqrt(kappa) of a condition number kappa at best: where it is too early to tell,
that is the steps it takes. Where the training makes no progress, one decade is enough to be named, if its interval
excludes 1.

**Movement.** An update of relative size r = rms(Delta W)/rms(W) changes the output of a layer relatively by at most
u = r sqrt(fan_in): updates are aligned with their input, random weights are not (Yang and Hu 2021; Yang, Simon and
Bernstein 2023). So u does not depend on the width. Learning needs a sum of u of about 1 in some layer; one step of
u > 1 replaces what the layer did. Too slow: the sum is below 1 when there is no skill, or u < 1/10,000 at the start.

**Halves.** A random ReLU unit whose inputs all point one way is dead with probability 1/2, so half of a layer dead is
chance; more than 1/2 + 1.645/(2 sqrt(16)) = 0.71 of a sample of at least 16 units is not (5 % one-sided). Saturation:
more than half of the entries let nothing through.

**Hysteresis.** What is compared with a threshold is the median over the `RECENT` = 5 last recorded steps that the
optimizer took: it is beyond the threshold if and only if most of them are, and one bad batch changes nothing.

**Severity.** Where the training makes progress, a sign is a note. Else it is a warning, or critical where it is beyond
the threshold by two decades more. Faults are no question of degree: NaN, an exact zero where a gradient should be.
"""

from __future__ import annotations

import math

RECENT = 5
SKILL = 0.1
CHANCE = 0.05
"""How near to surprise per error at chance is at chance; sampling makes 0.01 of a few hundred samples."""
ENOUGH = 100
FEWEST = 5
"""Logged losses below which nothing is said of their course."""
REACH = 1000.0
SLOWEST = 1e-4
HALF = 0.5
DEAD = HALF + 1.645 / (2.0 * math.sqrt(16.0))
WORSE = 100.0
FAR = math.log10(REACH) / 2.0
"""Decades of the error signal, 1.5, by which a layer falls behind by a factor of `REACH` in the tangent kernel."""


def nats(classes: int) -> float:
    """Return the cross-entropy of knowing nothing: ln K; ln 2 for a single output, which tells two classes apart.

    >>> round(nats(10), 4), round(nats(1), 4)
    (2.3026, 0.6931)
    """
    return math.log(max(classes, 2))


def edge(classes: int) -> float:
    """Return the standard deviation of logits beyond which the largest decides alone: sqrt(2 ln K) (Derrida 1981).

    >>> round(edge(10), 3)
    2.146
    """
    return math.sqrt(2.0 * nats(classes))


def surplus(deviation: float, classes: int) -> float:
    """Return what random logits of this standard deviation cost beyond ln K.

    >>> surplus(0.0, 10), surplus(1.0, 10), round(surplus(30.0, 10), 1)
    (0.0, 0.5, 62.1)
    """
    least = nats(classes)
    return deviation**2 / 2.0 if deviation < edge(classes) else deviation * edge(classes) - least


def chance_loss(first: float, deviation: float, classes: int) -> float:
    """Return the loss at chance, in the units of the first loss, from the standard deviation of the first logits.

    >>> round(chance_loss(2.8026, 1.0, 10), 4)
    2.3026
    """
    if not math.isfinite(deviation):
        return first
    least = nats(classes)
    return first * least / (least + surplus(deviation, classes))


def chance_surprise(classes: int) -> float:
    """Return L / e of a predictor that always says 1/K.

    >>> round(chance_surprise(10), 4), round(chance_surprise(1), 4)
    (2.4271, 1.3863)
    """
    if classes < 2:
        return nats(classes) / 0.5
    return nats(classes) / math.sqrt(1.0 - 1.0 / classes)


def least_spread(classes: int, skill: float = SKILL) -> float:
    """Return the standard deviation between samples that a logit needs for a skill.

    >>> round(least_spread(10), 3)
    0.679
    """
    return math.sqrt(2.0 * skill * nats(classes))


def most_gained(spread: float, error: float, outputs: int) -> float:
    """Return the most by which telling samples apart can have lowered a convex loss: e s sqrt(K).

    >>> most_gained(0.1, 1.0, 4)
    0.2
    """
    return error * spread * math.sqrt(outputs)


def spread_for(skill: float, classes: int) -> float:
    """Return the deviation between samples below which logits cannot have gained a skill: r ln K / (e sqrt(K)).

    >>> round(spread_for(0.1, 10), 3)
    0.077
    """
    return skill * chance_surprise(classes) / math.sqrt(classes)


def chance_error(first: float, deviation: float, classes: int) -> float:
    """Return e at chance from the first e and the standard deviation of the first logits.

    |p - y|^2 is 1 - 1/K on the average at chance, and 1 - 2/K + sum p^2 for a random p, whose sum p^2 is about
    exp(s^2)/K and at most 1.

    >>> chance_error(1.0, 0.0, 10), round(chance_error(1.0, 9.0, 10), 4)
    (1.0, 0.7071)
    """
    count = max(classes, 2)
    concentration = 1.0 if deviation > math.sqrt(math.log(count)) else math.exp(deviation**2) / count
    return first * math.sqrt((1.0 - 1.0 / count) / (1.0 - 2.0 / count + concentration))


def explained(spread: float, loss: float, error: float, outputs: int) -> float:
    """Return the explained share of variance, for squared errors: s^2 / (s^2 + (2 L / e)^2 / K).

    >>> explained(0.3, 0.01, 0.2, 1)
    0.9
    """
    residual = (2.0 * loss / error) ** 2 / outputs if error > 0.0 else 0.0
    total = spread**2 + residual
    return spread**2 / total if total > 0.0 else 0.0


def condition(spread: float, layers: int) -> float:
    """Return kappa = 1 / (H s^2): the steps it takes to tell samples apart; infinite where the spread is zero.

    >>> round(condition(0.1, 4), 3), condition(0.0, 4)
    (25.0, inf)
    """
    return 1.0 / (layers * spread**2) if spread > 0.0 else math.inf
