"""A run: a folder with a plan and the weights of its networks."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from sfumato import storage
from sfumato.contracts import Calibrator, Likelihood, Method, Task
from sfumato.likelihoods import Joint
from sfumato.predictions import JointPrediction, predict, predict_tiled
from sfumato.training.learner import AfterSteps, Images, Learner, WholeFiles
from sfumato.training.network import build, load_weights, save_weights
from sfumato.training.plan import Plan
from sfumato.training.questions import question
from sfumato.training.recipes import METHODS

CALIBRATOR, CONFORMAL = "calibrator.safetensors", "conformal.safetensors"


@dataclass(frozen=True)
class Run:
    """A finished run: all that is needed to predict.

    Args:
        folder: holds ``plan.yaml`` and ``weights-N.safetensors``.
        plan: what was trained on what, and how.
        task: the question asked of each pixel.
        likelihood: what the networks' outputs mean.
        networks: the members, in evaluation mode.
        calibrator: what corrects every prediction; None for the network's own.
        conformal: what makes sets or intervals of predictions; None for none.
        prefix: of the files of calibrator and guarantee, where the run is seen as one of its tasks.
    """

    folder: Path
    plan: Plan
    task: Task
    likelihood: Likelihood
    networks: tuple[nn.Module, ...]
    calibrator: Calibrator | None = None
    conformal: Any = None
    prefix: str = ""

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open what :func:`fit` left.

        Raises:
            FileNotFoundError: if the folder holds no run, or one that has not finished.
            ValueError: if a file is cut off or does not belong to the plan.
        """
        folder = Path(folder)
        plan = Plan.load(folder / "plan.yaml")
        task, likelihood = question(plan)
        networks = tuple(build(plan, likelihood).eval() for _ in range(plan.networks))
        for member, network in enumerate(networks):
            load_weights(network, weights_path(folder, member))
        return cls(folder, plan, task, likelihood, networks)._fitted()

    def _fitted(self) -> Self:
        """With the calibrator and the guarantee that are kept for it, if any."""
        task = self.task
        known = {CALIBRATOR: tuple(task.calibrator(name) for name in task.calibrators), CONFORMAL: task.conformal}
        found = [
            storage.load(kinds, path) if (path := self.file(name)).exists() else None for name, kinds in known.items()
        ]
        return replace(self, calibrator=found[0], conformal=found[1])

    def file(self, name: str) -> Path:
        """Where what was fitted after training is kept."""
        return self.folder / (self.prefix + name)

    @cached_property
    def per_task(self) -> dict[str, Self]:
        """The run seen as one of each of its tasks, by name; of one task the run itself."""
        if not isinstance(self.likelihood, Joint):
            return {self.plan.task: self}
        return {
            name: replace(
                self, plan=self.plan.of(name), task=task, likelihood=self.likelihood.of(name), prefix=f"{name}-"
            )._fitted()
            for name, task in self.task.parts.items()
        }

    def select_task(self, task: str = "") -> Self:
        """The run seen as one of its tasks; the name may be left out where it has one.

        Raises:
            ValueError: if it has several and none is named, or not the one that is.
        """
        if task in self.per_task:
            return self.per_task[task]
        if task or len(self.per_task) > 1:
            raise ValueError(f"{self.folder} has the tasks {', '.join(self.per_task)}: name one of them with --task")
        return next(iter(self.per_task.values()))

    def method(self, samples: int | None = None) -> Method:
        """The method of the plan over the run's networks; ``samples`` replaces the plan's number."""
        return METHODS[self.plan.method](self.networks, samples or self.plan.samples)

    def predict(
        self, image: Tensor, *, samples: int | None = None, seed: int = 0, index: int = 0, tile: int = 0
    ) -> Any:
        """The prediction of images (B, 3, H, W) in [0, 1] at the plan's scale, calibrated if the run is.

        Of several tasks it is a :class:`JointPrediction`, folded from one set of draws.

        Args:
            image: what the network sees; the prediction carries it.
            samples: of MC dropout; None for the plan's.
            seed: of the draws.
            index: the number of the image, so that its draws depend on nothing else.
            tile: side of the tiles that it is predicted on, pixels; 0 for the whole image at once.
        """
        return self.calibrated(self.predict_uncalibrated(self.method(samples), image, seed, index, tile))

    def predict_uncalibrated(self, method: Method, image: Tensor, seed: int, index: int, tile: int = 0) -> Any:
        """The prediction of ``method`` as the network makes it, on square tiles of this side if it is not 0."""
        common = {"likelihood": self.likelihood, "generator": generator_for(index, seed)}
        if tile:
            found = predict_tiled(method, image, tile=(tile, tile), overlap=tile // 4, **common)
        else:
            found = predict(method, image, **common)
        return replace(found, image=image)  # pyright: ignore[reportArgumentType, reportCallIssue]

    def calibrated(self, prediction: Any) -> Any:
        """A prediction of the network as the run's calibrator has it."""
        if isinstance(prediction, JointPrediction):
            parts = {name: view.calibrated(prediction[name]) for name, view in self.per_task.items()}
            return replace(prediction, parts=parts)
        return prediction if self.calibrator is None else self.calibrator(prediction)

    def check_calibration_leak(self, name: str, image: Tensor) -> str:
        """The image's name and a digest of what it shows, by which calibrators remember what they were fitted on.

        Raises:
            ValueError: if it was used to calibrate this run or for its guarantee.
        """
        digest = hashlib.blake2b(image.detach().cpu().contiguous().numpy().tobytes(), digest_size=8).hexdigest()
        for fitted in (self.calibrator, self.conformal):
            if fitted is not None and f"{name} {digest}" in fitted.fitted_on:
                raise ValueError(
                    f"image {name} was used to fit the {type(fitted).__name__} of {self.folder}: take other images, as "
                    f"in --split 'val[50%:]', or undo it with `sfumato calibrate {self.folder} --method none`"
                )
        return f"{name} {digest}"


def generator_for(index: int, seed: int) -> torch.Generator:
    """The randomness of image ``index``: the same whatever batch or process it falls in."""
    return torch.Generator().manual_seed(seed * 1_000_003 + index)


@rank_zero_only
def print_rank_zero(text: str) -> None:
    """Print, in the first process only."""
    print(text)


def weights_path(folder: Path, member: int) -> Path:
    """Where the averaged weights of a member lie."""
    return folder / f"weights-{member}.safetensors"


class CachedDataset(Dataset[dict[str, Any]]):
    """A data set read once and then kept in memory, with only the entries that training reads.

    Args:
        dataset: what is read.
        task: whose entries are kept, beside name and image.
        further: entries that are kept where a sample has them.
    """

    def __init__(self, dataset: Dataset, task: Task, further: tuple[str, ...] = ()) -> None:
        self.dataset, self.task, self.further = dataset, task, further
        self._samples: dict[int, dict[str, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_samples": {}}  # another process reads for itself

    def __len__(self) -> int:
        return len(self.dataset)  # pyright: ignore[reportArgumentType]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index not in self._samples:
            sample = self.dataset[index]
            more = [key for key in self.further if key in sample]
            self._samples[index] = {key: sample[key] for key in ("name", "image", *more)} | self.task.entries(sample)
        return self._samples[index]


def subset(dataset: Dataset, task: Task, limit: int = 0) -> CachedDataset:
    """The part of a data set that training or scoring of ``task`` reads: every image, or ``limit`` evenly spread."""
    count = len(dataset)  # pyright: ignore[reportArgumentType]
    if 0 < limit < count:
        dataset = Subset(dataset, [index * count // limit for index in range(limit)])
    return CachedDataset(dataset, task)


def fit(
    plan: Plan,
    train: Dataset,
    val: Dataset | None,
    folder: Path,
    *,
    resume: bool = False,
    devices: int = 1,
    num_nodes: int = 1,
    parallel_members: int = 1,
    progress: bool = True,
    batch_transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Run:
    """Train every member of a plan and leave a run.

    Args:
        plan: complete, as :func:`derive` returns it.
        train: training images at the plan's size.
        val: images that are scored now and then; None for none.
        folder: is made; holds the run.
        resume: go on from the last whole checkpoint; members that have finished are not trained again.
        devices: processes or GPUs on this node.
        num_nodes: how many nodes.
        parallel_members: members of an ensemble that are trained at the same time, each in a process of its own with its share
            of the cores, or a GPU in turn; they read the data anew, and show no bar.
        progress: whether to show a bar.
        batch_transform: what is done to every augmented batch before it is learned from; None for nothing.

    Raises:
        FileExistsError: if the folder holds a run and ``resume`` is false.
        ValueError: if the network's output does not fit the likelihood, the plan is not that of the run resumed, a
            batch cannot be shared out among members, or members cannot be trained at once.
        ChildProcessError: if a process that trained a member was killed.
    """
    check_output_dir(plan, folder, resume)
    if parallel_members > 1:
        _independent(plan, devices * num_nodes, parallel_members)
    if METHODS[plan.method].shared and plan.batch % plan.members:
        raise ValueError(
            f"a batch of {plan.batch} images cannot be shared out among {plan.members} members: make batch a multiple "
            f"of members, such as {plan.members * -(-plan.batch // plan.members)}"
        )
    task, likelihood = question(plan)
    # What cannot work is refused now, not after hours: a wrong class path, wrong channels, dropout that is not there.
    probe = build_network(plan, likelihood)
    predict(METHODS[plan.method]((probe,), 1), torch.zeros(1, 3, *plan.crop), likelihood=likelihood)
    if (rate := METHODS[plan.method].rate) is not None:
        rate(0, plan.steps(devices * num_nodes), plan.members)
    if _first():
        folder.mkdir(parents=True, exist_ok=True)
        plan.save(folder / "plan.yaml")
    kept = subset(train, task, plan.limit)
    scored = None if val is None else subset(val, task)
    missing = [member for member in range(plan.networks) if not weights_path(folder, member).exists()]
    train_one = partial(_fit_member, plan, task, likelihood, kept, scored, folder)
    if parallel_members > 1 and len(missing) > 1:
        _fit_at_once(train_one, plan, folder, missing, parallel_members)
    else:
        for member in missing:
            if not weights_path(folder, member).exists():  # one training may leave several
                train_one(member, devices, num_nodes, progress, batch_transform)
    return Run.open(folder)


def _independent(plan: Plan, processes: int, parallel_members: int) -> None:
    """Nothing, if the members of a plan can be trained at the same time.

    Raises:
        ValueError: if not.
    """
    if plan.method != "ensemble":
        raise ValueError(
            f"parallel_members is {parallel_members}, but {plan.method} is one training: leave it out, or train an ensemble"
        )
    if processes > 1:
        raise ValueError(
            f"parallel_members is {parallel_members} and devices × num_nodes is {processes}: spread either members or batches over them"
        )


def _fit_at_once(
    train_one: Callable[..., None], plan: Plan, folder: Path, missing: list[int], parallel_members: int
) -> None:
    """Train members in processes of their own; what was finished or checkpointed stays if one fails."""
    threads = max(1, (os.cpu_count() or 1) // parallel_members)
    spawned = multiprocessing.get_context("spawn")  # forked ones would share locks of threads that they do not have
    with ProcessPoolExecutor(min(parallel_members, len(missing)), spawned, torch.set_num_threads, (threads,)) as pool:
        jobs = [pool.submit(train_one, member, _place(member), 1, False, None) for member in missing]
        try:
            for member, job in zip(missing, jobs):
                job.result()
                print_rank_zero(f"member {member} of {plan.members} is trained")
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f"a process that trained a member in {folder} was killed, perhaps for want of memory: go on with "
                f"--resume, and fewer than {parallel_members} at once"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _place(member: int) -> int | list[int]:
    """Devices for one member: one processor, or the GPU whose turn it is."""
    return [member % torch.cuda.device_count()] if torch.cuda.is_available() else 1


def _first() -> bool:
    """Whether this is the first process: the others start later, and find what it left."""
    return getattr(rank_zero_only, "rank", 0) == 0


def check_output_dir(plan: Plan, folder: Path, resume: bool) -> None:
    """Nothing, if ``folder`` holds no run or the one to resume.

    Raises:
        FileExistsError: if it holds a run and ``resume`` is false.
        ValueError: if its plan is another.
    """
    path = folder / "plan.yaml"
    if _first() and path.exists() and not resume:
        raise FileExistsError(f"{folder} holds a run already: pass --resume to go on with it, or another --out")
    if _first() and path.exists() and (changed := Plan.load(path).difference(plan)):
        raise ValueError(f"{path} is another plan than asked for ({changed}): change --out, or the plan")


def build_network(plan: Plan, likelihood: Likelihood) -> nn.Module:
    """A fresh network for the plan, with the weights that it starts from.

    Raises:
        ValueError: if there is no such class, or the weights are of another kind of network.
    """
    return build(plan, likelihood, weights_path(Path(plan.init_from), 0) if plan.init_from else None)


def _fit_member(
    plan: Plan,
    task: Task,
    likelihood: Likelihood,
    train: Dataset,
    val: Dataset | None,
    folder: Path,
    member: int,
    devices: int | list[int],
    num_nodes: int,
    progress: bool,
    batch_transform: Callable[[dict[str, Any]], dict[str, Any]] | None,
) -> None:
    seed = plan.seed + member
    L.seed_everything(seed, verbose=False)
    learner = Learner(build_network(plan, likelihood), likelihood, task, plan, seed, batch_transform)
    checkpoint = WholeFiles.path(folder, member)
    recipe = METHODS[plan.method]

    def keep(member: int) -> None:
        rank_zero_only(save_weights)(learner.network, weights_path(folder, member))

    averaging = EMAWeightAveraging(decay=plan.ema) if recipe.rate is None else None
    callbacks: list[Callback] = [
        *([averaging] if averaging is not None else []),
        *([AfterSteps(recipe.after, plan.members, keep)] if recipe.after is not None else []),
        ModelCheckpoint(
            folder, checkpoint.stem, save_top_k=-1, save_on_train_epoch_end=True, enable_version_counter=False
        ),
    ]
    trainer = L.Trainer(
        accelerator="auto",
        devices=devices,
        num_nodes=num_nodes,
        precision=plan.precision,  # pyright: ignore[reportArgumentType]
        max_epochs=plan.epochs,
        check_val_every_n_epoch=max(1, plan.epochs // 3),
        limit_val_batches=0 if val is None else 1.0,
        num_sanity_val_steps=0,
        logger=[CSVLogger(folder, "log", f"member-{member}"), TensorBoardLogger(folder, "log", f"member-{member}")],
        callbacks=[*callbacks, *([RichProgressBar()] if progress else [])],
        enable_progress_bar=progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
        plugins=[WholeFiles()],
    )
    images = Images(train, val, plan.batch, seed)
    trainer.fit(learner, images, ckpt_path=checkpoint if checkpoint.exists() else None)
    if averaging is not None:  # the trainer does so itself, unless a kill left it nothing to train
        averaging.on_train_end(trainer, learner)
    if trainer.is_global_zero:
        network = learner.to(trainer.strategy.root_device).network
        if recipe.finish is not None:
            network = recipe.finish(network, learner.inputs(images.train_dataloader()))
        save_weights(network, weights_path(folder, member))
        checkpoint.unlink(missing_ok=True)
    trainer.strategy.barrier()
