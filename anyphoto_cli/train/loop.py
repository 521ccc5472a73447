"""`anyphoto train`: shards in, adapter out. What is finished is kept; a run that was cut off goes on bit for bit."""

from __future__ import annotations

import gc
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from anyphoto_cli.config.train import TrainConfig
from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.files.commit import committed, sweep
from anyphoto_cli.layout.schema import Layout
from anyphoto_cli.model.adapter import CARD_FILE, read_card, save_adapter, sweep_saving
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.runtime.run_record import only_one
from anyphoto_cli.train.activations import blocks_to_keep
from anyphoto_cli.train.ahead import Batch, encoded
from anyphoto_cli.train.batches import INDEX_FOLDER, ShardedSamples, batches, samples_of
from anyphoto_cli.train.changes import OPTION, check_allowed
from anyphoto_cli.train.checkpoint import ADAPTER_FOLDER, save_checkpoint, sweep_checkpoints
from anyphoto_cli.train.distributed import Averager, Ranks, joined
from anyphoto_cli.train.examples import Example
from anyphoto_cli.train.face_check import check_faces
from anyphoto_cli.train.frozen import Encoded, encode_batch
from anyphoto_cli.train.metrics import Meter, spoken
from anyphoto_cli.train.models import Models, open_models, open_text, text_rests_on, training_device
from anyphoto_cli.train.objective import objective
from anyphoto_cli.train.optimiser import Optimiser, in_forward_order, trained_parameters
from anyphoto_cli.train.out_of_memory import LOADING, out_of_memory_told
from anyphoto_cli.train.plots import CONFIG, METRICS, read_metrics
from anyphoto_cli.train.resolved import keep_resolved, resolved
from anyphoto_cli.train.resume import cut_metrics, facts_of, go_on, refuse_early, where_it_stands
from anyphoto_cli.train.text import CachedText, cache_folder, cache_text, not_cached
from anyphoto_cli.train.trackers import Nobody, Tracker, open_tracker
from anyphoto_cli.train.validation import Validation, open_validation, read_layouts, summary, validate, write_scores


@dataclass(frozen=True)
class Trained:
    """What a run came to. finished: all steps are done, and the adapter is there. loss: the last one, where one is
    known: of a run that was finished before, what it logged. signal: that asked one of the ranks for an end, as `stop`
    tells it, the highest of several; 0: none.
    """

    folder: Path
    adapter: Path
    step: int
    finished: bool
    loss: float | None
    signal: int = 0


@dataclass(frozen=True)
class _Begin:
    """How a run begins where there is one already."""

    resume: bool
    allow_changes: Sequence[str]


@dataclass(eq=False)
class _Run:
    config: TrainConfig
    ranks: Ranks
    models: Models
    optimiser: Optimiser
    facts: Mapping[str, Any]
    listener: Listener
    validation: Validation | None
    tracker: Tracker = field(default_factory=Nobody)

    @property
    def folder(self) -> Path:
        return Path(self.config.output_dir)

    def save(self, step: int, meter: Meter) -> None:
        """A checkpoint by the first rank; the others wait."""
        unlogged = meter.since_line()
        if self.ranks.first:
            save_checkpoint(
                self.folder, step, self.models.transformer, self.models.card, self.optimiser.state(), self.facts,
                self.config.checkpoints_total_limit,
                averaged=self.optimiser.averaged if self.config.ema_decay else None, unlogged=unlogged,
            )  # fmt: skip
        self.ranks.wait()


def run(
    config: TrainConfig,
    *,
    resume: bool = True,
    allow_changes: Sequence[str] = (),
    listener: Listener | None = None,
    stop: Callable[[], int] | None = None,
) -> Trained:
    """Train to `max_train_steps`, or until `stop` of any rank is not 0: then a checkpoint is saved and `finished` is
    False. stop: the number of the signal that asks for an end, or True.

    allow_changes: keys that may be another way than the run in `output_dir` had them so far (train/changes.py).

    Raises InputError for shards, bank or options that do not fit, also those a run in `output_dir` did not begin with;
    EnvironmentFault for memory, a full disk, a loss that is not finite (nothing was updated), a rank that is gone.
    """
    listener = listener or Listener()
    check_allowed(allow_changes, config)
    begin = _Begin(resume, allow_changes)
    with joined(config.device, config.timeout_s) as ranks:
        quiet = listener if ranks.first else Listener()
        if not ranks.first:
            return _train(config, ranks, begin, quiet, stop or (lambda: False))
        with only_one(Path(config.output_dir)):
            _sweep(Path(config.output_dir))
            return _train(config, ranks, begin, quiet, stop or (lambda: False))


def _sweep(folder: Path) -> None:
    """What a killed run left half written, and nothing else that lies there. Other ranks may write to the index by
    then: of what is taken from them a shard is hashed again, no more.
    """
    below = [
        path.relative_to(folder).as_posix() for kind in ("text", "validation") for path in folder.glob(f"{kind}/*")
    ]
    sweep(folder, ADAPTER_FOLDER, INDEX_FOLDER, *below)
    sweep_saving(folder / ADAPTER_FOLDER)
    sweep_checkpoints(folder)


def _train(config: TrainConfig, ranks: Ranks, begin: _Begin, listener: Listener, stop: Callable[[], int]) -> Trained:
    listener.stage("Reading the shards")
    samples = _read_shards(config, ranks, listener)
    faces = check_faces(config, device=str(training_device(config, ranks.local)))
    layouts = read_layouts(config)
    standing = where_it_stands(Path(config.output_dir), ranks)
    refuse_early(standing[0], config, ranks, samples, begin.resume, begin.allow_changes)
    with out_of_memory_told(config, ranks, LOADING):
        text = _cached_text(config, samples, layouts, ranks, listener) if config.text_embeddings == "cached" else None
        listener.stage("Loading the base and a fresh adapter")
        models = open_models(config, ranks, text, faces)
    _keep_blocks(config, models, samples, listener)
    parameters = trained_parameters(models.transformer)
    run_ = _Run(
        config, ranks, models, Optimiser(parameters, config), facts_of(config, ranks, models, samples), listener,
        open_validation(config, layouts, models.analyzer),
    )  # fmt: skip
    if config.validation_steps and not config.validation_layouts:
        listener.caution("validation_steps is set and validation_layouts is not: nothing is drawn")
    first, run_.facts, unlogged = go_on(
        run_.folder, standing, run_.facts, models, run_.optimiser, listener, begin.resume, begin.allow_changes
    )
    if ranks.first:
        _keep_adapter(run_)
        _keep_config(run_)
        keep_resolved(run_.folder, resolved(config, models, ranks.world))
        cut_metrics(run_.folder / METRICS, first)
        run_.tracker = open_tracker(config, first, listener)
    listener.work("Training", config.max_train_steps, first)
    try:
        if ranks.any(ranks.first and _owes_validation(run_, first)):
            _validate(run_, first)
        micro = first * config.gradient_accumulation_steps
        examples = batches(samples, config, micro, ranks.rank, ranks.world)
        step, loss, signal = _steps(run_, examples, first, stop, unlogged)
    finally:
        listener.end()
        run_.tracker.close()
    finished = step == config.max_train_steps
    if finished and ranks.first:
        _write_adapter(run_, step)
    ranks.wait()
    loss = _logged_loss(run_.folder) if loss is None else loss
    return Trained(run_.folder, run_.folder / ADAPTER_FOLDER, step, finished, loss, signal)


def _keep_blocks(config: TrainConfig, models: Models, samples: ShardedSamples, listener: Listener) -> None:
    """As many blocks as the budget holds are spared their second forward pass, for the largest sample there is."""
    if config.activation_memory_gb is None or not config.gradient_checkpointing:
        return
    most = (config.data.resolution // 16) ** 2 + config.method.t5_length + int(samples.costs.max())
    transformer, bytes_each = models.transformer, models.parts.dtype.itemsize
    kept = blocks_to_keep(transformer, config.train_batch_size * most, config.activation_memory_gb, bytes_each)
    transformer.kept_blocks = kept
    every = len(transformer.transformer_blocks) + len(transformer.single_transformer_blocks)
    listener.notice(f"{every - kept} of {every} blocks are computed again in the backward pass")


def _read_shards(config: TrainConfig, ranks: Ranks, listener: Listener) -> ShardedSamples:
    """Hashed once, by all ranks together. Raises InputError where ranks do not see the same.

    What one rank cannot read ends the run on all of them: nobody waits for who is gone.
    """
    samples = samples_of(config, ranks)
    for complaint in [*samples.complaints, *filter(None, [samples.recounted])]:
        listener.caution(complaint)
    if ranks.any(ranks.sum([len(samples)])[0] != ranks.world * len(samples)):
        remedy = "Do all machines see the same files, whole?"
        raise InputError("differ between the ranks", file=samples.folders[0], field="data.shards", remedy=remedy)
    return samples


def _cached_text(
    config: TrainConfig, samples: ShardedSamples, layouts: Sequence[Layout], ranks: Ranks, listener: Listener
) -> CachedText:  # fmt: skip
    """Every rank reads its share of the captions, with the encoders alone on its device, and lets them go again."""
    folder = cache_folder(Path(config.output_dir), text_rests_on(config, ranks.local))
    if any(folder.parent.glob("*.safetensors")):
        listener.notice(f"{folder.parent}/*.safetensors are of an earlier version: read no more, and may be removed")
    prompts = [layout.prompt for layout in layouts]
    missing = not_cached(["", *prompts, *samples.captions()], folder)
    ranks.wait()  # until all have looked
    if missing:
        listener.stage(f"Reading {len(missing)} captions")
        cache_text(missing[ranks.rank :: ranks.world], open_text(config, ranks.local), folder)
        gc.collect()  # the encoders' memory is wanted for the base
        torch.cuda.empty_cache()
    ranks.wait()
    return CachedText(folder, training_device(config, ranks.local))


def _steps(
    run: _Run, examples: Iterator[list[Example]], first: int, stop: Callable[[], int], unlogged: Mapping[str, float]
) -> tuple[int, float | None, int]:  # fmt: skip
    """(steps done, last loss; None where there was nothing to do, the signal that ended them or 0). unlogged: of the
    steps before the first one.
    """
    config, ranks, told = run.config, run.ranks, ""
    loss: float | None = None
    averager = Averager(ranks, in_forward_order(trained_parameters(run.models.transformer)))
    meter = Meter(config, ranks, run.models.transformer, run.models.parts.device, unlogged)
    work = _encoded(run, examples, first, meter)
    for step in range(first, config.max_train_steps):
        at = f"at step {step + 1}"
        with out_of_memory_told(config, ranks, at):
            loss = _gradients(run, work, step, meter, averager)
            with meter.sections.of("update"):
                averager.finish()
                norm = run.optimiser.clip()
        if ranks.any(not (math.isfinite(loss) and math.isfinite(norm))):
            remedy = (
                "Nothing was updated; the last checkpoint is whole. Look at the data, or go on from it with a lower "
                f"learning_rate and {OPTION} learning_rate"
            )
            raise EnvironmentFault(f"the loss of step {step + 1} is not finite", file=run.folder, remedy=remedy)
        with out_of_memory_told(config, ranks, at), meter.sections.of("update"):
            rate = run.optimiser.step(step)
        signal, last = int(stop()), step + 1 == config.max_train_steps
        over = ranks.any(signal != 0)
        if (step + 1) % config.logging_steps == 0 or last:
            line = meter.line(step + 1, norm, rate)
            _log(run, line)
            loss, told = line["loss"], spoken(line)
        run.listener.done(1, told)
        if over or last or (step + 1) % config.checkpointing_steps == 0:
            run.save(step + 1, meter)
        due = bool(config.validation_steps) and ((step + 1) % config.validation_steps == 0 or last)
        if due and not over:
            _validate(run, step + 1)
        elif due and last and run.validation is not None:
            run.listener.notice(f"The pictures of step {step + 1} are not drawn: the same command does that")
        if over:
            return step + 1, loss, max(ranks.gather(signal))
    return config.max_train_steps, loss, 0


def _owes_validation(run: _Run, step: int) -> bool:
    """Whether the run was cut off, or asked to end, between the checkpoint of this step and its pictures."""
    every, last = run.config.validation_steps, step == run.config.max_train_steps
    if run.validation is None or not step or not every or (step % every and not last):
        return False
    return not any(row.get("step") == step and "validation_found" in row for row in _metrics(run.folder))


def _validate(run: _Run, step: int) -> None:
    """Every rank renders its share. A sharded base's blocks are gathered by all together: there all render all, and the
    first one keeps. With the averaged weights where they are averaged, as in the adapter.
    """
    if run.models.parts.device.type == "cuda":
        torch.cuda.synchronize()  # the next batch may be in the encoders, which rendering uses on this stream
    if run.validation is not None:
        models, folder = run.models, run.folder / "validation" / f"step-{step:06d}"
        shared = run.config.sharding == "none"
        kept, sharers = folder if shared or run.ranks.first else None, run.ranks if shared else None
        drawing, less = f"while the pictures of step {step} were drawn", "Set validation_steps: 0, or make them smaller"
        with out_of_memory_told(run.config, run.ranks, drawing, less), run.optimiser.averaged():
            scores = validate(run.validation, models.pipeline, models.parts.encode_text, kept, models.steps, sharers)
        if run.ranks.first:
            write_scores(folder, scores)
        _log(run, {"step": step, **summary(scores)})
    run.ranks.wait()


def _encoded(
    run: _Run, examples: Iterator[list[Example]], first: int, meter: Meter
) -> Iterator[tuple[Batch, Encoded]]:  # fmt: skip
    """All micro-steps' batches from optimiser step `first` on, as the transformer takes them."""
    config, parts, each = run.config, run.models.parts, run.config.gradient_accumulation_steps

    def waited() -> Iterator[Batch]:
        while True:
            with meter.sections.of("data"):
                batch = next(examples)
            yield batch

    def encode(batch: Batch, micro: int) -> Encoded:
        with meter.sections.of("encode"):
            return encode_batch(batch, parts, config.method, seed=config.seed, step=micro, rank=run.ranks.rank)

    numbers = range(first * each, config.max_train_steps * each)
    return encoded(waited(), encode, numbers, parts.device, config.overlap_encoding)


def _gradients(
    run: _Run, work: Iterator[tuple[Batch, Encoded]], step: int, meter: Meter, averager: Averager
) -> float:  # fmt: skip
    """Accumulate one optimiser step's gradients; this rank's mean loss."""
    config, losses = run.config, []
    for micro in range(config.gradient_accumulation_steps):
        number = step * config.gradient_accumulation_steps + micro
        batch, ready = next(work)
        terms = objective(
            batch, run.models.parts, config.loss, config.method, seed=config.seed, step=number, rank=run.ranks.rank,
            sections=meter.sections, encoded=ready,
        )  # fmt: skip
        last = micro + 1 == config.gradient_accumulation_steps
        with meter.sections.of("backward"), averager.during(last):
            (terms.loss / config.gradient_accumulation_steps).backward()
        meter.add(terms, batch)
        losses.append(terms.loss.detach())
    return sum(float(loss) / config.gradient_accumulation_steps for loss in losses)


def _keep_adapter(run: _Run) -> None:
    """The adapter of a run that was finished, and goes on for more steps, stays as adapter-<step>."""
    adapter = run.folder / ADAPTER_FOLDER
    if not (adapter / CARD_FILE).is_file():
        return
    step = read_card(adapter).train_step - run.models.card.train_step
    if step < run.config.max_train_steps:
        kept = run.folder / f"{ADAPTER_FOLDER}-{step}"
        shutil.rmtree(kept, ignore_errors=True)
        adapter.replace(kept)
        run.listener.notice(f"The adapter of step {step} is {kept} now")


def _keep_config(run: _Run) -> None:
    with committed(run.folder / CONFIG) as out:
        out.write((json.dumps(run.config.told(), indent=2) + "\n").encode())


def _logged_loss(run: Path) -> float | None:
    losses = [row["loss"] for row in _metrics(run) if isinstance(row.get("loss"), int | float)]
    return float(losses[-1]) if losses else None


def _metrics(run: Path) -> list[dict[str, Any]]:
    try:
        return read_metrics(run)
    except InputError:  # nothing was logged
        return []


def _log(run: _Run, line: Mapping[str, float]) -> None:
    if run.ranks.first:
        with (run.folder / METRICS).open("a") as out:
            # NaN is no JSON: null says that there was nobody to measure.
            told = {key: round(value, 6) if math.isfinite(value) else None for key, value in line.items()}
            out.write(json.dumps(told) + "\n")
        run.tracker.log(int(line["step"]), line)


def _write_adapter(run: _Run, step: int) -> None:
    """The averaged weights where they are averaged, in the folder that `generate --adapter` takes."""
    card = run.models.card.model_copy(update={"train_step": run.models.card.train_step + step})
    with run.optimiser.averaged():
        save_adapter(run.folder / ADAPTER_FOLDER, run.models.transformer, card)
