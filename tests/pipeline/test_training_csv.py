"""training.csv: a row an epoch, once each, whatever was interrupted."""

import csv

from kdeploy.pipeline.training_csv import TrainingCsv
from kdeploy.training.fit import EpochRecord, NullCallback


def record(epoch, **losses):
    return EpochRecord(
        epoch=epoch,
        epochs=3,
        loss=sum(losses.values()),
        losses=losses,
        validation_accuracy=0.5,
        images_per_second=100.0,
        seconds=2.0,
        learning_rate=0.1,
    )


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_writes_a_row_an_epoch_of_all_trainings(tmp_path):
    table = TrainingCsv(tmp_path / "training.csv", NullCallback())
    table.started("teacher", 1, 10, 0)
    table.epoch_ended(record(1, labels=1.5))
    table.started("student", 1, 10, 0)
    table.epoch_ended(record(1, labels=0.5, kd=0.25))
    first, second = rows(tmp_path / "training.csv")
    assert list(first) == [
        "training", "epoch", "loss", "loss.labels", "loss.kd",
        "validation_accuracy", "images_per_second", "seconds", "learning_rate",
    ]  # fmt: skip
    assert (first["training"], first["loss"], first["loss.kd"]) == ("teacher", "1.5", "")
    assert (second["training"], second["loss"], second["loss.kd"]) == ("student", "0.75", "0.25")


def test_an_epoch_that_is_trained_again_stands_there_once(tmp_path):
    path = tmp_path / "training.csv"
    table = TrainingCsv(path, NullCallback())
    table.started("teacher", 3, 10, 0)
    for epoch in (1, 2):
        table.epoch_ended(record(epoch, labels=1.0))
    # Killed after the row, before the checkpoint of epoch 2.
    table = TrainingCsv(path, NullCallback())
    table.started("teacher", 3, 10, 1)
    for epoch in (2, 3):
        table.epoch_ended(record(epoch, labels=2.0))
    assert [(r["epoch"], r["loss"]) for r in rows(path)] == [
        ("1", "1.0"),
        ("2", "2.0"),
        ("3", "2.0"),
    ]


def test_a_run_writes_it_when_asked(run_project, project):
    run_project(until="teacher", csv_log=True)
    run_project("teacher.train.epochs=1", until="teacher", csv_log=True)
    run_project("teacher.train.epochs=1", until="teacher", csv_log=True)  # makes nothing
    [row] = rows(project / "run" / "training.csv")
    assert (row["training"], row["epoch"]) == ("train the teacher", "1")
    assert float(row["loss"]) == float(row["loss.labels"]) > 0


def test_a_name_like_a_formula_is_text_and_its_rows_are_found_again(tmp_path):
    for _ in range(2):
        table = TrainingCsv(tmp_path / "training.csv", NullCallback())
        table.started("=1+1", 1, 10, 0)
        table.epoch_ended(record(1, labels=-1.5))
    (row,) = rows(tmp_path / "training.csv")
    assert (row["training"], row["loss"]) == ("'=1+1", "-1.5")
