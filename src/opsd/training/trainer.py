"""OPSDTrainer: a transformers.Trainer that generates the rollouts that it trains on.

The Trainer's loop is not overridden. `get_batch_samples` gets a step's rollouts from the method's
source in one engine call, and `training_step` trains on them. The student's forward pass and the
fused loss run inside the forward of the wrapped model, so that DDP's and FSDP's hooks fire. No
method's name appears here.
"""

from __future__ import annotations

import contextlib
import copy
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.profiler import record_function
from transformers import PreTrainedTokenizerBase, SchedulerType, Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerState
from transformers.trainer_utils import TrainOutput, rotate_checkpoints

from opsd.console import log
from opsd.data.batches import ProblemLoader, StreamLoader
from opsd.data.curriculum import Curriculum, outcomes
from opsd.data.problems import Data, as_problems, load_problems
from opsd.data.rows import Row
from opsd.data.stream import ProblemStream
from opsd.grade.judge import Verifier, judge
from opsd.grade.verifier import MathVerifier
from opsd.languages.registry import resolve
from opsd.lm import sharded_files
from opsd.lm.loading import nonfinite
from opsd.lm.parameters import fingerprint
from opsd.lm.sharding import full_tensors_on_first
from opsd.methods.method import Method
from opsd.parts import tag
from opsd.publish.hub import HubPush, refusals
from opsd.rollout.engine import Engine, EngineChoice, EngineDown
from opsd.runs import checkpoint
from opsd.runs.files import finite, written_beside
from opsd.runs.folder import RunFolder
from opsd.teacher.copies import TeacherDown
from opsd.teacher.scorer import ScoringPlan, together
from opsd.teacher.weights import Weights
from opsd.training.build import (
    begin_authors,
    make_generator,
    make_learner,
    make_loader,
    make_student,
    make_weights,
)
from opsd.training.callbacks import FiniteSteps, TeacherUpdates, TimelyEnd, TrainingProgress
from opsd.training.checks import (
    learns_from_rewards,
    nothing_to_resume,
    refuse,
    refuse_async,
    refuse_missing_logprobs,
    refuse_other_routes,
    refuse_other_step,
    refuse_unjudged,
    settings_errors,
)
from opsd.training.config import OPSDConfig
from opsd.training.dev import dev_scores, summarise
from opsd.training.examples import TrainingExample, training_examples
from opsd.training.learner import passes
from opsd.training.metrics import PHASE, Metrics, ages_of, rollout_row
from opsd.training.monitor import CollapseMonitor
from opsd.training.record import Given, record
from opsd.training.setup import Setup
from opsd.training.stopping import Stopped, StopSignal
from opsd.training.traces import trace
from opsd.types import Attempt, Group, Problem, RunFailed, UserError, Verdict


class OPSDTrainer(Trainer):
    """Trains a causal language model with a method of this package.

    `model` is a Hub name, a folder, `miniature`, or a model; `method` is a method of the catalogue
    (`opsd.methods.opsd()`). Datasets contain `Problem`s, or rows with the usual column names
    (`prompt`, `solution` or `privileged_context`, `answer`, `language`). `Data(source=...)`
    (`opsd.data.problems`) refers to a dataset as a recipe does, including its dev problems.
    `verifier` grades completions: a callable from problem and completion to a `Verdict`, or a
    shipped one (`opsd.grade.verifiers`); by default a boxed answer is compared with the problem's
    answer. `engine` generates instead of the model itself: `VLLM()`, `VLLMServer(url)`, or one of
    your own. `language_weights` draws problems of some languages more often; a `curriculum`
    (`Frontier()`) draws those that are worth training on.

    A run writes what `opsd train` writes: `recipe.yaml`, `env.json`, and at its end `model/`.
    Values that a recipe cannot name (a lambda, problems given as objects) are listed in
    `recipe.yaml` under `unwritten`. If the best checkpoint's weights are loaded at the end,
    `best_step` is its step.
    """

    _tag_names = ("opsd", "on-policy-self-distillation")
    args: OPSDConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    processing_class: Any
    model: Any
    train_dataset: Any
    eval_dataset: Any

    def __init__(
        self,
        model: str | nn.Module,
        method: Method,
        args: OPSDConfig | None = None,
        train_dataset: Iterable[Problem | Row] | Data | None = None,
        eval_dataset: Iterable[Problem | Row] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        verifier: Verifier | None = None,
        peft_config: Any = None,
        engine: Engine | EngineChoice | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        language_weights: Mapping[str, float] | None = None,
        curriculum: Curriculum | None = None,
    ) -> None:
        args = args or OPSDConfig(output_dir="runs/opsd")
        named = train_dataset if isinstance(train_dataset, Data) else None
        if isinstance(train_dataset, Data):
            train_dataset, dev = load_problems(train_dataset)
            eval_dataset = dev or None if eval_dataset is None else eval_dataset
        lora = copy.deepcopy(peft_config)  # before PEFT fills in what it found
        student, tokenizer = make_student(model, args, processing_class, peft_config)
        self.method = method
        self.hub = HubPush(args, method, base=self._base_name)
        self.run = RunFolder(str(args.output_dir))
        self._begun = self.run.begun
        self._groups: list[Group] | None = None
        self.save_total_limit = args.save_total_limit
        self.saved_step: int | None = None
        self.best_step: int | None = None
        self._before_step: tuple[int, dict[str, Any]] | None = None
        self.stop = StopSignal()
        self._ahead: deque[list[Problem]] = deque()
        self._judging = threading.Lock()
        train_set = None
        if train_dataset is not None:
            train_set = method.prepared(as_problems(train_dataset), args.seed)
        self.metrics = Metrics(by_language=_several_languages(train_set))
        with settings_errors():
            super().__init__(
                model=student,
                args=args,
                train_dataset=train_set,
                eval_dataset=None if eval_dataset is None else as_problems(eval_dataset),
                processing_class=tokenizer,
                callbacks=callbacks,
                optimizers=optimizers,
            )
        for callback in (ProgressCallback, PrinterCallback):
            self.remove_callback(callback)
        self.progress = TrainingProgress(rewarded=learns_from_rewards(method))
        self.verifier = MathVerifier() if verifier is None else verifier
        self._scoring_dev = False
        begin = getattr(self.verifier, "begin", None)
        self._verifier_at_work = (
            begin(lambda: self.state, self._log_metric) if begin else self.verifier
        )
        shares = language_weights or {}
        self.setup = Setup(
            method=method,
            args=args,
            model=self.model,
            tokenizer=tokenizer,
            accelerator=self.accelerator,
            verifier=self.verifier,
            train_set=self.train_dataset,
            dev_set=self.eval_dataset,
            language_weights={resolve(name): weight for name, weight in shares.items()},
            curriculum=curriculum,
        )
        self.finite = FiniteSteps(self.accelerator, self.run.path)
        self.monitor = CollapseMonitor(self.setup, self.log)
        refuse(self.setup)
        self.records = True
        self._given = Given(
            model=model if isinstance(model, str) else _name(model),
            lora=lora,
            wrapped=hasattr(model, "peft_config"),
            tokenizer=None if processing_class is None else processing_class.name_or_path,
            optimizer=any(x is not None for x in optimizers),
            engine=engine,
            verifier=self.verifier,
            weights=shares,
            curriculum=curriculum,
            data=named,
            problems=None if isinstance(train_set, ProblemStream) else len(train_set or ()),
            languages=_languages(train_set),
            dev=None if self.eval_dataset is None else len(self.eval_dataset),
        )
        self.curriculum = curriculum and curriculum.begin(train_set or (), self.setup.data_seed)
        self.starting_weights = fingerprint(self.model)
        authors = begin_authors(self.setup)
        self.weights = make_weights(self.setup)
        self.generator = make_generator(
            self.setup,
            engine,
            self.weights,
            authors,
            student=lambda: self.accelerator.unwrap_model(self.model),
            verify=self.verdicts,
            observe=self.metrics.rollouts,
            heed=self.stop.heed,
            watch=self.progress.writing,
        )
        for callback in self._callbacks():
            self.add_callback(callback)
        refuse_async(self.setup, self.generator)
        refuse_missing_logprobs(self.setup, self.generator)
        refuse_other_routes(self.setup, self.generator)
        self.learner = make_learner(self.setup, self.weights, self.metrics)

    def _callbacks(self) -> Iterator[TrainerCallback]:
        """Our own callbacks, in the order in which they act."""
        yield self.finite
        yield TeacherUpdates(self.weights, self.method.reuse, self.finite)
        yield TimelyEnd(
            self.stop, lambda: self.generator.sampler.counts.generated_tokens, self.catch_up
        )
        yield self.monitor
        if not self.args.disable_tqdm:
            yield self.progress

    # The steps

    def get_train_dataloader(self) -> ProblemLoader | StreamLoader:
        return make_loader(self.setup, self.curriculum)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | None]:
        """A step's training examples, sorted by length and divided into exactly `num_batches`
        lists."""
        self.finite.refuse(self.state)
        self._before_step = self.state.global_step, self._own_state()
        self.stop.heed()
        rows = self._next_rows(epoch_iterator, num_batches)
        step, total_steps = self.state.global_step, self.state.max_steps
        self.learner.begin(step, total_steps)
        if step % self.method.reuse == 0 or self._groups is None:
            self.learner.scorer.forget()
            group = self.method.source.group
            with self.metrics.timed("rollout"):
                self._groups = self._generated(rows[::group], step)
                self.metrics.notes(self._groups)
            refuse_unjudged(self._groups, self.method)
            if self.curriculum is not None:
                self.curriculum.record(gather_object(outcomes(self._groups)))
            with contextlib.suppress(StopIteration):  # the epoch ends
                while len(self._ahead) < min(self.args.max_staleness, total_steps - step - 1):
                    self._ahead.append(self._drawn(epoch_iterator, num_batches))
            for later, problems in enumerate(self._ahead, step + 1):
                self.generator.begin(problems[::group], later, step, total_steps)
        self.metrics.stale(self._groups, step)
        made = training_examples(
            self._groups,
            self.setup.terms,
            self.generator.sampler,
            step,
            self.method.source.rows,
            self.method.reuse,
        )
        self.learner.denominators(made, self.args.max_completion_length, self._summed)
        made = [example for example in made if example.taught]
        self.metrics.add("rollouts_learned", len({(x.group, x.sample) for x in made}), 1)
        if self._due(self.args.trace_steps) or (self.args.trace_steps and self._last_rollouts):
            with self.generator.full_params(self.weights):
                self._trace(made if self.args.process_index == 0 else [])
        made.sort(key=lambda example: -example.tokens)
        size = -(-len(made) // num_batches)
        return [made[i * size : (i + 1) * size] for i in range(num_batches)], None

    def _next_rows(self, batches: Iterator, count: int) -> list[Problem]:
        """The problems of `count` micro-batches: those drawn ahead, or the next ones."""
        return self._ahead.popleft() if self._ahead else self._drawn(batches, count)

    def _drawn(self, batches: Iterator, count: int) -> list[Problem]:
        return [problem for _ in range(count) for problem in next(batches)]

    def _generated(self, problems: Sequence[Problem], step: int) -> list[Group]:
        """A step's groups. If the engine fails, the steps so far are saved before the error is
        raised."""
        try:
            return self.generator.groups(problems, step, self.state.max_steps)
        except EngineDown as error:
            self.save_last_step()
            raise EngineDown(
                f"{error}; {step} steps are saved: fix it, and continue with --resume"
            ) from error

    def training_step(
        self, model: nn.Module, inputs: list[TrainingExample], num_items_in_batch: Any = None
    ) -> Tensor:
        """Forward and backward over one list of examples, in as many passes as the token budget
        requires. The number is the same on every process, since each pass synchronises."""
        model.train()
        parts = passes(inputs, self.args.max_tokens_per_pass, self.learner.layout)
        plans = together([self.learner.plan(part) for part in parts], gather_object)
        parts = [*([[]] * (len(plans) - len(parts))), *parts]
        for plan in plans:
            self.learner.scorer.ask(plan)
        loss = torch.zeros((), device=self.args.device)
        for i, part in enumerate(parts):
            self.stop.heed()
            last = i == len(parts) - 1
            self.progress.learning(i, len(parts), sum(example.tokens for example in part))
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                loss += self._pass(model, part, plans[i])
        return self.finite.counted(loss)

    def _pass(self, model: nn.Module, part: list[TrainingExample], plan: ScoringPlan) -> Tensor:
        """One forward and backward. Gradients and the returned loss are multiplied by the number
        of processes, which DDP and the Trainer's log divide by again."""
        base = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        if plan.batches:
            self.progress.reading("teacher")
        objective, results = self.learner.objective(part, base, self.args.device, plan)
        self.progress.reading("student")
        with self.metrics.timed("student"):
            with self.compute_loss_context_manager():
                loss = model(objective=objective) * self.args.world_size
            # The loss is already divided by the step's own counts.
            scaled = {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}
            self.accelerator.backward(loss, **scaled)
        divergences = self.learner.note(part, results)
        if self._due(self.args.rollout_log_steps):
            rows = [
                rollout_row(example, self.state.global_step, self.processing_class, divergence)
                for example, divergence in zip(part, divergences, strict=True)
            ]
            self.run.append(f"rollouts/rank{self.args.process_index}.jsonl", rows)
        return loss.detach()

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        sharded_files.reduce_in_float32(self.accelerator)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Raises UserError if the optimizer cannot be created with its settings."""
        with settings_errors():
            return super().create_optimizer(*args, **kwargs)

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """Raises UserError if the schedule cannot be created with its settings."""
        with settings_errors():
            return super().create_scheduler(*args, **kwargs)

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        self.finite.norm = super()._get_grad_norm(*args, **kwargs)
        return self.finite.norm

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_fsdp_enabled:
            main = self.args.should_save
            folder = Path(output_dir)
            sharded_files.save_optimizer(self.optimizer, self.lr_scheduler, folder, main=main)
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.is_fsdp_enabled and checkpoint is not None:
            sharded_files.load_optimizer(self.optimizer, self.lr_scheduler, Path(checkpoint))
        else:
            super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        scheduler: Any = self.lr_scheduler
        groups = self.optimizer.param_groups  # pyright: ignore[reportOptionalMemberAccess]
        scheduler = getattr(scheduler, "scheduler", scheduler)  # as DeepSpeed wraps it
        if isinstance(scheduler, LambdaLR):
            # Recomputed for this run's length: the checkpoint's schedule may have ended there, at a
            # rate of 0.
            each = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
            scheduler._last_lr = [rate * factor(scheduler.last_epoch) for rate, factor in each]
            for group, rate in zip(groups, scheduler._last_lr, strict=True):
                group["lr"] = rate
        if self.args.should_save:
            log(
                f"resuming after step {self.state.global_step}, up to step {self.state.max_steps};"
                f" learning rate {groups[0]['lr']:.3g} by the schedule"
                f" '{SchedulerType(self.args.lr_scheduler_type).value}'"
            )

    def _summed(self, counts: Tensor) -> Any:
        return self.accelerator.reduce(counts.to(self.args.device), "sum")

    # Logs

    def _trace(self, made: Sequence[TrainingExample]) -> None:
        base = self.accelerator.unwrap_model(self.model)
        step = self.state.global_step
        two = list(dict.fromkeys((x.group, x.sample) for x in made))[:2]
        chosen = [x for x in made if (x.group, x.sample) in two]
        rows = [trace(x, self.learner, base, self.processing_class, step) for x in chosen]
        self.run.append("traces/rank0.jsonl", rows)

    def _due(self, every: int) -> bool:
        """Whether this step's rollouts are new and must be written out, as in one of `every`
        steps."""
        step = self.state.global_step
        return bool(every) and step % every == 0 and step % self.method.reuse == 0

    @property
    def _last_rollouts(self) -> bool:
        """Whether this step's rollouts are new, and the last ones of the training."""
        step, reuse = self.state.global_step, self.method.reuse
        return step % reuse == 0 and step + reuse >= self.state.max_steps

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the step's measurements; writes training and evaluation lines to metrics.jsonl."""
        if "loss" in logs:
            self.finite.tell(logs)
            measured = self.metrics.merged(gather_object)
            for inside in ("time/loss", "time/waiting"):
                measured["time/student"] -= measured.get(inside, 0.0)
            logs.update(measured)
            told = [
                {f"author/{part.name}/{name}": value for name, value in author.measured.items()}
                for author, part in zip(self.generator.authors, self.method.authors, strict=True)
            ]
            if self.curriculum is not None:
                logs |= {f"curriculum/{k}": v for k, v in self.curriculum.measured.items()}
            for counts in gather_object(told):
                for name, value in counts.items():
                    logs[name] = logs.get(name, 0) + value
            counts = self.generator.sampler.counts
            gathered = gather_object([(counts.generated_tokens, counts.skipped)])
            logs["generated_tokens"] = sum(g[0] for g in gathered)
            logs["skipped_prompts"] = sum(g[1] for g in gathered)
        super().log(logs, start_time)
        # NaN and infinity do not exist in JSON: they become None, the Trainer's own values
        # included.
        history = self.state.log_history
        history[-1] = {k: v if finite(v) else None for k, v in history[-1].items()}
        if self.args.should_save and ("loss" in logs or any(k.startswith("eval_") for k in logs)):
            self.run.append("metrics.jsonl", [{"step": self.state.global_step, **logs}])

    def evaluate(
        self,
        eval_dataset: Sequence[Problem] | None = None,
        ignore_keys: Any = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """avg@k, pass@k, format rate and mean length on the dev problems, with the same random
        numbers at every checkpoint, so that differences between checkpoints are paired."""
        self.stop.heed()
        problems = self.eval_dataset if eval_dataset is None else eval_dataset
        args = self.args
        self.generator.prefetcher.wait()  # until training rollouts are graded
        with self.metrics.timed("evaluate"), self._dev_scored():
            own = list(problems)[args.process_index :: args.world_size]
            with self.generator.full_params():
                self.generator.sync(self.state.global_step)
                scored = dev_scores(self.generator.sampler, own, args.eval_samples)
            scores = gather_object(scored)
        metrics = {f"{metric_key_prefix}_{k}": v for k, v in summarise(scores).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Transformers' own, except that a resumed run was already scored at its start."""
        at_start = kwargs.get("skip_scheduler", False)
        return {} if at_start and self.state.global_step else super()._evaluate(*args, **kwargs)

    @contextlib.contextmanager
    def _dev_scored(self) -> Iterator[None]:
        self._scoring_dev = True
        try:
            yield
        finally:
            self._scoring_dev = False

    # Checkpoints and resuming

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train. `resume_from_checkpoint=True` resumes from the newest complete checkpoint; a path,
        from that checkpoint. A run that receives a signal to stop (SIGTERM, Ctrl-C) saves a
        checkpoint of its last finished step, and ends with SystemExit(143) or KeyboardInterrupt.

        Raises UserError if there is nothing to resume from, or if a new run would start in the
        folder of another one; RunFailed if losses, gradients or weights become NaN or infinite.
        """
        main = self.args.should_save
        with self.run.held() if main else contextlib.nullcontext(), self.stop.listening():
            folder = self._on_first(lambda: self._starts_from(resume_from_checkpoint))
            self._clear()
            if self.records and main:
                self._record()
            try:
                result = self._train(folder, **kwargs)
            except Stopped:
                self.save_last_step()
                raise self.stop.ending from None
            except TeacherDown:
                if self.args.world_size == 1:  # the others would not know
                    self.save_last_step()
                raise
            finally:
                self.progress.progress.stop()
                self._begun = True
            if self.stop.number is not None:  # the signal came after the last step
                raise self.stop.ending
            if self.records:
                self.finish()
            return result

    def _record(self) -> None:
        """Records what runs, and logs which values have no name."""
        lost = record(self.run.path, self._given, self.method, self.args)
        if lost:
            log(
                f"{self.run.path / 'recipe.yaml'} lacks values without a name ({'; '.join(lost)}):"
                " resume this run in Python, by train(resume_from_checkpoint=True)"
            )

    def finish(self) -> None:
        """Writes the trained model and its card to `<output_dir>/model`, and logs the path."""
        self.save_model(str(self.run.path / "model"))
        self.create_model_card()
        if self.args.should_save:
            log(f"the trained model: {self.run.path / 'model'}")

    def _on_first(self, ask: Callable[[], Any]) -> Any:
        """Run a function on the first process, and return its result, or raise its UserError, on
        all."""
        told: list[Any] = [None, None]
        if self.args.process_index == 0:
            try:
                told[0] = ask()
            except UserError as error:
                told[1] = str(error)
        broadcast_object_list(told)
        if told[1] is not None:
            raise UserError(told[1])
        return told[0]

    def _clear(self) -> None:
        """Discards the state of an earlier training that was interrupted within a step."""
        self.metrics.clear()
        self.finite.clear()
        self._before_step = None
        self._ahead.clear()
        self.generator.prefetcher.steps.clear()
        self._groups = None
        self.best_step = None

    def _starts_from(self, asked: str | bool | None) -> Path | None:
        """The checkpoint to resume from; None for a new run."""
        if not asked:
            if self._begun:
                self.run.refuse_taken()
            return None
        if asked is True:
            folder = checkpoint.newest(self.run.path)
            if folder is None:
                raise UserError(nothing_to_resume(self.run))
            return folder
        damage = checkpoint.damaged(Path(asked))
        if damage:
            raise UserError(f"{asked} is not a checkpoint to resume from: {damage}")
        return Path(asked)

    def _train(self, folder: Path | None, **kwargs: Any) -> Any:
        if folder is not None:
            state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
            refuse_other_step(self.setup, folder, state.global_step)
            spent = self._restore(folder, state.global_step)
            self.saved_step = state.global_step
            if self.args.should_save:
                self.run.cut_back(checkpoint.load_state(folder)["sizes"])
                checkpoint.forget_after(self.run.path, state.global_step)
            steps = self.args.max_steps if self.args.max_steps > 0 else state.max_steps
            spent_all = spent >= (self.args.max_generated_tokens or math.inf)
            if state.global_step >= steps or spent_all or self.monitor.ended(state.log_history):
                # The Trainer would take one more step before it notices that training is complete.
                self._load_from_checkpoint(str(folder))
                self.state = state
                self._find_best(folder)
                self.catch_up()
                if self.args.load_best_model_at_end and state.best_model_checkpoint:
                    self._load_best_model()
                return TrainOutput(state.global_step, 0.0, {})
        return super().train(resume_from_checkpoint=str(folder) if folder else None, **kwargs)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> Any:
        started = super()._init_training_state(*args, **kwargs)
        if self.saved_step:
            self._find_best(self.run.path / f"checkpoint-{self.saved_step}")
        return started

    def catch_up(self) -> None:
        """Scores the dev problems if a signal saved the checkpoint that the run resumes from before
        they were scored."""
        control = self.state.stateful_callbacks.get("TrainerControl", {})
        due = control.get("args", {}).get("should_evaluate")
        if due and self._determine_best_metric(self.evaluate(), None):
            best = self.run.path / f"checkpoint-{self.state.global_step}"
            self.state.best_model_checkpoint = str(best)

    def _find_best(self, folder: Path) -> None:
        """Sets the current path of the best checkpoint, whose name is recorded in `folder`: the run
        may have been moved, or started under a relative path. If the checkpoint no longer exists or
        is damaged, the search for the best one starts over, and a log line says so."""
        state = self.state
        recorded = TrainerState.load_from_json(str(folder / "trainer_state.json"))
        if recorded.best_model_checkpoint is None:
            return
        best = self.run.path / Path(recorded.best_model_checkpoint).name
        state.best_model_checkpoint = str(best) if best.is_dir() else None
        if not self.args.load_best_model_at_end:
            return
        if damage := self._on_first(lambda: checkpoint.damaged(best)):
            if self.args.should_save:
                log(f"{best}, the best checkpoint so far, cannot be used: {damage}")
            state.best_model_checkpoint = state.best_global_step = state.best_metric = None

    def go_to(self, folder: Path) -> None:
        """Loads the student's weights, the teachers' state and the authors' state from a
        checkpoint."""
        state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
        self._restore(folder, state.global_step)
        self._load_from_checkpoint(str(folder))
        self.generator.weights_changed()

    def _own_state(self) -> dict[str, Any]:
        """This process's counts, and the sizes of its files."""
        return {
            **self.generator.state_dict(),
            "curriculum": self.curriculum and self.curriculum.state_dict(),
            "sizes": self.run.sizes(self.args.process_index, self.args.world_size),
        }

    def save_last_step(self) -> None:
        """Saves the last finished step, unless it is already saved, in its state before anything of
        the next step was counted or written. Logs the path."""
        step = self.state.global_step
        folder = self.run.path / f"checkpoint-{step}"
        begun, before = self._before_step or (None, None)
        if step > 0 and step != self.saved_step:
            self._save_checkpoint(self.model, None, before if begun == step else None)
        if self.args.should_save:
            saved = f"saved in {folder}; --resume continues there" if step else "nothing to save"
            log(f"stopped after step {step}: {saved}")

    def _save_checkpoint(
        self, model: nn.Module, trial: Any, own: dict[str, Any] | None = None
    ) -> None:
        self.progress.phase("saving")
        folder = self.run.path / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            checkpoint.clear(folder)
        self.accelerator.wait_for_everyone()
        step = self.state.global_step
        unspent = _everywhere(self.generator.prefetcher.wait())
        if step % self.method.reuse and self._groups is not None:
            unspent = {step: self._groups}
        if unspent:
            checkpoint.save_rollouts(folder, self.args.process_index, unspent)
        states = gather_object([own or self._own_state()])
        teachers = {
            f"{i}-{_file_name(choice)}": full_tensors_on_first(own.state_dict())
            for i, (choice, own) in enumerate(self.weights.items())
        }
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            state = {
                "starting_weights": self.starting_weights,
                "processes": self.args.world_size,
                "rollouts_per_step": self.setup.rollouts_per_step,
                "generated_tokens": sum(state["generated_tokens"] for state in states),
                "skipped": sum(state["skipped"] for state in states),
                "authors": [state["authors"] for state in states],
                "curriculum": states[0]["curriculum"],  # the same on all processes
                "sizes": {name: n for state in states for name, n in state["sizes"].items()},
            }
            checkpoint.save(folder, state, teachers)
        # Older checkpoints are deleted only after this one is complete.
        self.args.save_total_limit = None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = self.save_total_limit
        self.accelerator.wait_for_everyone()  # every process has written its part
        if self.args.should_save:
            checkpoint.seal(folder)
            rotate_checkpoints(
                output_dir=str(self.run.path),
                save_total_limit=self.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.saved_step = self.state.global_step

    def _restore(self, folder: Path, step: int) -> int:
        """Restores our state from a checkpoint; returns the number of tokens generated until
        then."""
        state = checkpoint.load_state(folder)
        if state["starting_weights"] != self.starting_weights:
            raise UserError(
                f"{folder} was trained from other weights than '{self.model.config._name_or_path}':"
                " a resumed run must start from the same model"
            )
        first = self.args.process_index == 0
        authors = state["authors"]
        self.generator.load_state_dict(
            {
                "generated_tokens": state["generated_tokens"] if first else 0,
                "skipped": state["skipped"] if first else 0,
                "authors": authors[self.args.process_index % len(authors)],
            }
        )
        if self.curriculum is not None and state.get("curriculum") is not None:
            self.curriculum.load_state_dict(state["curriculum"])
        for i, (choice, own) in enumerate(self.weights.items()):
            name = f"{i}-{_file_name(choice)}"
            if own.state_dict() or checkpoint.has_teacher_state(folder, name):
                own.load_state_dict(checkpoint.load_teacher_state(folder, name))
        unspent = checkpoint.load_rollouts(folder, self.args.process_index)
        if step % self.method.reuse:
            if step not in unspent:
                raise UserError(f"{folder} lacks the rollouts that its next step needs")
            self._groups = unspent[step]
            return state["generated_tokens"]
        if state["processes"] != self.args.world_size:  # they are now divided differently
            return state["generated_tokens"]
        limit = self.args.max_staleness
        young = {k: v for k, v in unspent.items() if max(ages_of(v, k), default=0) <= limit}
        young = _everywhere(young)
        for later, groups in young.items():
            self.generator.prefetcher.keep(later, groups)
        if len(young) < len(unspent) and self.args.should_save:
            old = ", ".join(str(later + 1) for later in sorted(unspent.keys() - young.keys()))
            log(f"rollouts of steps {old} are older than max_staleness: generating them again")
        return state["generated_tokens"]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            sharded_files.load_weights(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        best = Path(str(self.state.best_model_checkpoint))
        self.best_step = int(best.name.removeprefix("checkpoint-"))
        if self.is_fsdp_enabled:
            sharded_files.load_weights(self.model, best)
        else:
            super()._load_best_model()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        weights = self.model.state_dict() if state_dict is None else state_dict
        if name := nonfinite(weights):
            raise RunFailed(
                f"the weight '{name}' contains NaN or infinite values, so nothing is"
                " saved: resume from the last checkpoint with a lower learning_rate"
            )
        with written_beside(Path(output_dir or str(self.args.output_dir))) as draft:
            super()._save(str(draft), state_dict)
            # This is a pickle of the arguments: opening it would run code, and nothing reads it.
            (draft / "training_args.bin").unlink(missing_ok=True)

    # The Hub

    @property
    def _step_of_weights(self) -> int:
        return self.best_step or self.state.global_step

    def _base_name(self) -> str:
        return self.accelerator.unwrap_model(self.model).config._name_or_path

    def init_hf_repo(self, token: str | None = None) -> None:
        """Creates the repository. UserError if the Hub refuses, or if a pickle would be
        uploaded."""
        self.hub.refuse_strategy()
        with refusals(self.args.hub_model_id or str(self.args.output_dir)):
            super().init_hf_repo(token)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes the card of the run's final model, `<output_dir>/model/README.md`."""
        if self.is_world_process_zero():
            self.hub.describe(self.run.path / "model", self.hub_model_id, self._step_of_weights)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Saves the model with its card in `<output_dir>/model`, and uploads that folder."""
        if self.hub_model_id is None:
            self.init_hf_repo(token)
        folder = self.run.path / "model"
        self.save_model(str(folder), _internal_call=True)
        if not self.is_world_process_zero():
            return None
        message = commit_message or "End of training"
        how: dict[str, Any] = {"blocking": blocking, "token": token, "revision": revision}
        step = self._step_of_weights
        return self.hub.send(folder, str(self.hub_model_id), message, step, **how)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.is_world_process_zero():
            rotated = self.save_total_limit is not None
            repository, step = str(self.hub_model_id), self.state.global_step
            self.hub.send_checkpoint(Path(checkpoint_folder), repository, step, rotated=rotated)

    def _finish_current_push(self) -> None:
        self.hub.finish(self.hub_model_id)

    # Verifier and Trainer hooks

    def verdicts(self, attempts: Sequence[Attempt]) -> list[Verdict | None]:
        """The verifier's verdicts; the default verifier gives None if no answer is known."""
        self.progress.phase("grading")
        with self._judging, record_function(f"{PHASE}grade"):
            return judge(self._verifier_at_work, attempts)

    def _log_metric(self, name: str, value: float) -> None:
        """Adds a verifier's measurement of training rollouts; those of dev problems are ignored."""
        if not self._scoring_dev:
            self.metrics.add(name, value, 1)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """A tied head is not stored, so no warning is needed if it is missing."""
        tied = set(getattr(self.model, "all_tied_weights_keys", None) or ())
        load_result.missing_keys[:] = [k for k in load_result.missing_keys if k not in tied]
        super()._issue_warnings_after_load(load_result)

    def floating_point_ops(self, inputs: list[TrainingExample]) -> float:
        """6 x parameters x tokens of the student's sequences."""
        return 6.0 * self.model.num_parameters() * sum(example.tokens for example in inputs)


def _everywhere(own: Mapping[int, list[Group]]) -> dict[int, list[Group]]:
    """The rollouts of the steps that every process has."""
    steps = set.intersection(*gather_object([set(own)]))
    return {step: own[step] for step in sorted(steps)}


def _name(model: Any) -> str:
    """The name or path that a model was loaded from; empty if it was created in Python."""
    return str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")


def _languages(problems: Any) -> tuple[str, ...]:
    """The languages of a training set; those of a stream are not known in advance."""
    known = () if isinstance(problems, ProblemStream) else problems or ()
    return tuple(dict.fromkeys(problem.language for problem in known))


def _file_name(choice: Weights) -> str:
    return tag(choice).replace(":", "-")


def _several_languages(problems: Any) -> bool:
    """Whether to split numbers by language; true for a stream, whose languages are not known in
    advance."""
    if problems is None or isinstance(problems, ProblemStream):
        return problems is not None
    return len({problem.language for problem in problems}) > 1
