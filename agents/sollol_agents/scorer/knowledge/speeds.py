"""Learned speeds of one node: per model prompt and decode speed, load time, and slow-down with company.

Base speed is what an attempt does alone at the node's usual pace. Samples are brought to that base before
they teach it: multiplied by `1 + beta * co-runners` and divided by the fast multiplier `pace`, so that a slow
phase never teaches the base speed. What one model teaches about the node carries over to models that were
not sampled yet, as the ratio of measured to expected speed.

Of an answer that came whole only the total is known: it moves the two terms, reading and writing, by as little as
makes their sum right, each in the square of its share (Kaczmarz's step on relative errors), so that the small term
is not blamed for the large one.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from sollol_agents.scorer.knowledge import priors
from sollol_agents.scorer.knowledge.clamp import clamped
from sollol_schemas.execution import Figures
from sollol_schemas.learned import LearnedModel, LearnedSpeeds
from sollol_schemas.telemetry import LearnedSpeed

_ALPHA = 0.25
_LOAD_ALPHA = 0.3
_FASTEST_TPS = 100_000.0
_LONGEST_LOAD_S = 3600.0
_MIN_DECODE_TOKENS = 8
_MIN_PROMPT_TOKENS = 32
_RECOVERY_PER_S = 0.02
_MODELS_MAX = 512
_FELT = 0.05  # a term below this part of the other is not taught by their sum
_LEAST_SHARE = 0.1
_BETA_GPU = 0.30
_BETA_CPU = 0.70
_BETA_OTHER_MODEL = 0.85
_STEP = (0.3, 1.3)  # one sample moves a speed at most by these factors


class ModelSpeed:
    """What is known of one model on one node; 0 means not measured."""

    __slots__ = ("decode_samples", "decode_tps", "load_s", "prompt_samples", "prompt_tps")

    def __init__(self) -> None:
        self.prompt_tps = 0.0
        self.prompt_samples = 0
        self.decode_tps = 0.0
        self.decode_samples = 0
        self.load_s = 0.0


class LoadRatio:
    """How far loads of a whole fleet lie from the expected ones: what one machine's disk teaches about the others'."""

    __slots__ = ("_samples", "log_ratio")

    def __init__(self) -> None:
        self.log_ratio = 0.0
        self._samples = 0

    def learn(self, ratio: float) -> None:
        """Takes one load's ratio of measured to expected seconds."""
        self._samples += 1
        log_ratio = math.log(clamped(ratio, 1e-2, 1e2))
        self.log_ratio += max(_ALPHA, 1.0 / (1 + self._samples)) * (log_ratio - self.log_ratio)


class NodeSpeeds:
    """Speeds of one node's models. `version` changes whenever an estimate might."""

    def __init__(self, *, machine: priors.Machine, has_gpu: bool, loads: LoadRatio | None = None) -> None:
        self.version = 0
        self.beta = _BETA_GPU if has_gpu else _BETA_CPU
        self.beta_other = _BETA_OTHER_MODEL
        self._machine = machine
        self._loads = loads or LoadRatio()
        self._models: OrderedDict[str, ModelSpeed] = OrderedDict()
        self._log_ratio = {"prompt": 0.0, "decode": 0.0, "load": 0.0}
        self._ratio_samples = {"prompt": 0, "decode": 0, "load": 0}

    def _model(self, model: str) -> ModelSpeed:
        """What is known of a model, to be added to; of those beyond the limit go that were added to longest ago."""
        known = self._models.get(model)
        if known is None:
            known = self._models[model] = ModelSpeed()
            if len(self._models) > _MODELS_MAX:
                self._models.popitem(last=False)
        self._models.move_to_end(model)
        return known

    def models(self) -> dict[str, ModelSpeed]:
        """What is known of each model; not to be changed."""
        return self._models

    def set_machine(self, machine: priors.Machine) -> None:
        """Uses other hardware figures as the prior."""
        if machine != self._machine:
            self._machine = machine
            self.version += 1

    def decode_tps(self, model: str, size_bytes: float) -> float:
        """Decode speed of one answer alone, tokens per second; > 0."""
        known = self._models.get(model)
        if known is not None and known.decode_tps > 0:
            return known.decode_tps
        return priors.decode_tps(self._machine, size_bytes) * math.exp(self._log_ratio["decode"])

    def prompt_tps(self, model: str, size_bytes: float) -> float:
        """Prompt speed of one request alone, tokens per second; > 0."""
        known = self._models.get(model)
        if known is not None and known.prompt_tps > 0:
            return known.prompt_tps
        return priors.prompt_tps(self._machine, size_bytes) * math.exp(self._log_ratio["prompt"])

    def load_s(self, model: str, size_bytes: float) -> float:
        """Seconds to load a model; > 0."""
        known = self._models.get(model)
        if known is not None and known.load_s > 0:
            return known.load_s
        log_ratio = self._log_ratio["load"] if self._ratio_samples["load"] else self._loads.log_ratio
        return priors.load_s(self._machine, size_bytes) * math.exp(log_ratio)

    def has_decode_samples(self, model: str, at_least: int) -> bool:
        """Whether the model's decode speed rests on so many of our own samples."""
        known = self._models.get(model)
        return known is not None and known.decode_samples >= at_least

    def is_measured(self, model: str) -> bool:
        """Whether the model's decode speed was measured here, or another model's that tells it; else it is a guess."""
        known = self._models.get(model)
        return self._ratio_samples["decode"] > 0 or (known is not None and known.decode_tps > 0)

    def adopt(self, told: tuple[LearnedSpeed, ...], canonical_of: dict[str, str]) -> None:
        """Takes over what the node measured itself, where nothing was learnt from outcomes yet.

        Args:
            told: The node's own figures.
            canonical_of: Canonical name by the node's spelling; other models are ignored.
        """
        for speed in told:
            model = canonical_of.get(speed.model)
            if model is None or speed.samples == 0:
                continue
            known = self._model(model)
            before = (known.prompt_tps, known.decode_tps, known.load_s)
            if known.prompt_samples == 0:
                known.prompt_tps = clamped(speed.prompt_tps, 0.0, _FASTEST_TPS)
            if known.decode_samples == 0:
                known.decode_tps = clamped(speed.decode_tps, 0.0, _FASTEST_TPS)
            if known.load_s == 0.0:
                known.load_s = clamped(speed.load_s, 0.0, _LONGEST_LOAD_S)
            if before != (known.prompt_tps, known.decode_tps, known.load_s):
                self.version += 1

    def learned(self) -> LearnedSpeeds:
        """Everything learnt, as plain data."""
        return LearnedSpeeds(
            machine=(float(self._machine.bandwidth_gb_s), float(self._machine.prompt_tps)),
            beta=round(self.beta, 4),
            log_ratio={kind: round(value, 4) for kind, value in self._log_ratio.items()},
            ratio_samples=dict(self._ratio_samples),
            models={
                name: LearnedModel(
                    prompt_tps=round(known.prompt_tps, 3),
                    prompt_samples=known.prompt_samples,
                    decode_tps=round(known.decode_tps, 3),
                    decode_samples=known.decode_samples,
                    load_s=round(known.load_s, 3),
                )
                for name, known in self._models.items()
            },
        )

    def restore(self, learned: LearnedSpeeds) -> None:
        """Goes on from what a former process learnt on the same hardware; own samples are worth more."""
        if learned.machine != tuple(self._machine):
            return
        if not any(self._ratio_samples.values()):
            self.beta = learned.beta
            self._log_ratio |= {k: v for k, v in learned.log_ratio.items() if k in self._log_ratio}
            self._ratio_samples |= {k: n for k, n in learned.ratio_samples.items() if k in self._ratio_samples}
        for name, told in learned.models.items():
            known = self._model(name)
            if known.prompt_samples == 0 and told.prompt_tps > 0:
                known.prompt_tps, known.prompt_samples = told.prompt_tps, told.prompt_samples
            if known.decode_samples == 0 and told.decode_tps > 0:
                known.decode_tps, known.decode_samples = told.decode_tps, told.decode_samples
            if told.load_s > 0:
                known.load_s = known.load_s or told.load_s
        self.version += 1

    def learn(self, model: str, size_bytes: float, figures: Figures, pace: float) -> None:
        """Takes one finished attempt's figures as a sample.

        Args:
            model: Canonical name.
            size_bytes: Bytes of its weights, for the prior.
            figures: As the node measured them.
            pace: The node's fast multiplier while it ran; 1 is the usual speed.
        """
        known = self._model(model)
        company = 1.0 + self.beta * clamped(figures.co_runners, 0.0, 1e3)
        pace = max(pace, 0.05)
        tokens = figures.output_tokens or 0
        if tokens >= _MIN_DECODE_TOKENS and figures.decode_s and figures.decode_s > 0:
            rate = tokens / figures.decode_s
            self._learn_beta(known, rate / pace, figures.co_runners)
            self._learn_decode(known, clamped(rate * company / pace, 1e-3, _FASTEST_TPS), size_bytes)
        fresh = (figures.prompt_tokens or 0) - (figures.cached_tokens or 0)
        if fresh >= _MIN_PROMPT_TOKENS and figures.prompt_s and figures.prompt_s > 0:
            rate = clamped(fresh / figures.prompt_s * company / pace, 1e-3, _FASTEST_TPS)
            self._learn_prompt(known, rate, size_bytes)
        if figures.prompt_s is None and figures.decode_s is None and tokens >= _MIN_DECODE_TOKENS:
            total_s = (figures.actual_s - figures.load_s - figures.slot_wait_s) * pace / company
            self._learn_total(model, max(0, fresh), tokens, total_s, size_bytes)
        if figures.load_s > 0.1:
            self._learn_load(known, clamped(figures.load_s, 0.0, _LONGEST_LOAD_S), size_bytes)
        self.version += 1

    def _learn_total(self, model: str, fresh: int, tokens: int, total_s: float, size_bytes: float) -> None:
        """Takes the seconds of a whole answer, alone at the usual pace."""
        if total_s <= 0:
            return
        known, prompt_tps = self._model(model), self.prompt_tps(model, size_bytes)
        decode_tps = self.decode_tps(model, size_bytes)
        reading_s, writing_s = fresh / prompt_tps, tokens / decode_tps
        wrong_s = (total_s - reading_s - writing_s) / (reading_s**2 + writing_s**2)
        if fresh >= _MIN_PROMPT_TOKENS and reading_s > writing_s * _FELT:
            longer = max(1.0 + wrong_s * reading_s, _LEAST_SHARE)
            self._learn_prompt(known, clamped(prompt_tps / longer, 1e-3, _FASTEST_TPS), size_bytes)
        if writing_s > reading_s * _FELT:
            longer = max(1.0 + wrong_s * writing_s, _LEAST_SHARE)
            self._learn_decode(known, clamped(decode_tps / longer, 1e-3, _FASTEST_TPS), size_bytes)

    def _learn_decode(self, known: ModelSpeed, rate: float, size_bytes: float) -> None:
        known.decode_samples += 1
        known.decode_tps = _moved(known.decode_tps, rate, known.decode_samples)
        self._teach("decode", known.decode_tps / priors.decode_tps(self._machine, size_bytes))

    def _learn_prompt(self, known: ModelSpeed, rate: float, size_bytes: float) -> None:
        known.prompt_samples += 1
        known.prompt_tps = _moved(known.prompt_tps, rate, known.prompt_samples)
        self._teach("prompt", known.prompt_tps / priors.prompt_tps(self._machine, size_bytes))

    def _learn_load(self, known: ModelSpeed, seconds: float, size_bytes: float) -> None:
        if known.load_s == 0.0:
            known.load_s = seconds
        else:
            known.load_s += _LOAD_ALPHA * (seconds - known.load_s)
        ratio = known.load_s / priors.load_s(self._machine, size_bytes)
        self._teach("load", ratio)
        self._loads.learn(ratio)

    def _learn_beta(self, known: ModelSpeed, rate: float, co_runners: float) -> None:
        if known.decode_samples < 3 or co_runners < 0.5 or known.decode_tps <= 0 or rate <= 0:
            return
        seen = clamped((known.decode_tps / rate - 1.0) / co_runners, 0.0, 1.5)
        self.beta += 0.02 * (seen - self.beta)

    def _teach(self, kind: str, ratio: float) -> None:
        n = self._ratio_samples[kind] = self._ratio_samples[kind] + 1
        log_ratio = math.log(clamped(ratio, 1e-3, 1e3))
        self._log_ratio[kind] += max(_ALPHA, 1.0 / n) * (log_ratio - self._log_ratio[kind])


def _moved(current: float, sample: float, samples: int) -> float:
    """The speed after one more sample: the first replaces a prior, later ones move it within `_STEP`."""
    if samples <= 1 or current <= 0:
        return sample
    sample = clamped(sample, _STEP[0] * current, _STEP[1] * current)
    return current + max(_ALPHA, 1.0 / samples) * (sample - current)


class Pace:
    """The fast multiplier of one node's speed: 1 is usual, below 1 a slow phase.

    Measured from the progress of running streams: `pace += 0.3 * (measured / expected - pace)` per second;
    an idle node recovers by 0.02 a second.
    """

    __slots__ = ("at", "value")

    def __init__(self, now: float) -> None:
        self.value = 1.0
        self.at = now

    def observe(self, measured_tokens: float, expected_tokens: float, now: float) -> None:
        """Compares the tokens that streams made since the last call with what was expected of them."""
        passed_s = clamped(now - self.at, 0.0, 10.0)
        self.at = now
        if expected_tokens <= 0:
            return
        ratio = clamped(measured_tokens / expected_tokens, 0.0, 2.0)
        self.value = clamped(self.value + (1.0 - 0.7**passed_s) * (ratio - self.value), 0.05, 1.25)

    def rest(self, now: float) -> None:
        """Lets the multiplier of a node without running streams drift back to 1."""
        passed_s = clamped(now - self.at, 0.0, 3600.0)
        self.at = now
        drift = _RECOVERY_PER_S * passed_s
        self.value = min(1.0, self.value + drift) if self.value < 1.0 else max(1.0, self.value - drift)
