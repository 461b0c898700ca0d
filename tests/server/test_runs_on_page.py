"""What the page shows of a run, the slice to draw next, and training from the page, by its routes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from scribbleseg.api import load
from scribbleseg.files import write_json
from scribbleseg.lock import at_work
from scribbleseg.recipes.default import training as default_stages
from scribbleseg.runs import Run
from scribbleseg.server import look, training
from scribbleseg.server.app import make_app
from scribbleseg.server.display import turn_for_screen
from scribbleseg.server.drawing import Change, Drawing
from scribbleseg.server.project import open_project
from scribbleseg.server.run import serve
from scribbleseg.server.series import Series, check_run
from scribbleseg.server.training import settings
from scribbleseg.suggest import suggest
from scribbleseg.types import UNLABELLED, DataError

testclient = pytest.importorskip("starlette.testclient", reason="httpx is of the dev extra")

TAB = "0123456789abcdef0123"


class Client:
    def __init__(self, root, run=None):
        app, self.store, self.runs = make_app(open_project(root), run)
        self.http = testclient.TestClient(app)

    def get(self, path):
        return self.http.get(path).json()

    def map(self, case, what="labels"):
        return np.frombuffer(self.http.get(f"/api/cases/{case}/predicted/{what}").content, np.uint8)


@pytest.fixture
def no_process(monkeypatch):
    """Nothing looks at images by itself."""
    monkeypatch.setattr("scribbleseg.server.predictions.Predictions._ensure", lambda *_: None)


def look_at_all(root, run):
    look._look_at_all(open_project(root), load(run, "cpu"), deque())


@pytest.mark.usefixtures("no_process")
class TestPredictions:
    def test_they_are_those_of_the_network_as_on_the_page(self, trained):
        client = Client(trained.root, trained.run)
        assert client.map(0).size == 0
        look_at_all(trained.root, trained.run)
        model, project = load(trained.run, "cpu"), open_project(trained.root)
        state = client.get("/api/run")
        assert (state["seen"], state["errors"], state["runs"][0]["name"]) == ([0, 1, 2], {}, "run")
        for n, name in enumerate(project.names):
            geometry = client.store.drawing(name).geometry
            turn = turn_for_screen(geometry)
            image = project.image(name)
            np.testing.assert_array_equal(client.map(n), turn(model.segment(image)).ravel())
            doubt = 255 * (1 - turn(model.probabilities(image)).max(axis=0)).ravel()
            assert np.abs(client.map(n, "doubt") - doubt).max() <= 0.51

    def test_an_image_that_has_changed_is_looked_at_anew_and_one_that_is_broken_is_named(self, trained):
        client = Client(trained.root, trained.run)
        look_at_all(trained.root, trained.run)
        name = client.store.project.names[1]
        file = trained.root / "images" / f"{name}.nii.gz"
        file.write_bytes(b"no image")
        assert client.get("/api/run")["seen"] == [0, 2]
        look_at_all(trained.root, trained.run)
        assert file.name in client.get("/api/run")["errors"][name]
        assert client.map(1).size == 0

    def test_the_run_before_is_there_to_compare_with(self, trained):
        second = trained.run.with_name("run_2")
        shutil.copytree(trained.run, second)
        client = Client(trained.root, trained.run)
        assert [run["name"] for run in client.get("/api/run")["runs"]] == ["run_2", "run"]
        look_at_all(trained.root, trained.run)
        size = client.store.drawing(client.store.project.names[0]).labels.size
        assert (client.map(0).size, client.map(0, "before").size) == (0, size)

    def test_scribbles_that_are_merged_are_looked_at_too(self, trained):
        for annotator in ("ann", "bob"):
            Drawing(open_project(trained.root, annotator), "train000").change(Change(0, [(0, 9, 1)]))
        command = [sys.executable, "-m", "scribbleseg.server.look", str(trained.root), "ann+bob"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert (process.wait(200), process.stderr.read()) == (0, "")

    def test_cases_that_somebody_waits_for_come_first(self):
        wanted = deque()
        order = look._order(["a", "b", "c", "d"], wanted)
        assert next(order) == "a"
        wanted.extend(["nobody", "d"])
        assert [next(order), next(order)] == ["d", "b"]


@pytest.fixture
def begun(trained):
    """A data set of which two slices of each case are drawn, and its run."""
    project = open_project(trained.root)
    for n, file in enumerate(project.drawn().values()):
        drawn = nib.load(file)
        values = np.asarray(drawn.dataobj).copy()
        values[..., [z for z in range(values.shape[2]) if z not in (n, 2)]] = project.encoding.by_name["ignore"]
        nib.save(nib.Nifti1Image(values, drawn.affine, drawn.header), file)
    return trained


@pytest.mark.usefixtures("no_process")
class TestNext:
    def test_it_goes_through_the_list_of_the_command_line(self, begun):
        look_at_all(begun.root, begun.run)
        client, model = Client(begun.root, begun.run), load(begun.run, "cpu")
        expected = [(each.case, each.slice) for each in suggest(model.segmenter, model.to_draw_in(begun.root), 4)]
        assert len(expected) == 4
        found, path = [], "/api/next?case=0"
        for _ in expected:
            each = client.get(path)
            found.append((each["case"], each["slice_index"]))
            number = client.store.project.names.index(each["case"])
            path = f"/api/next?case={number}&axis={each['axis']}&slice={each['slice_index']}"
        assert found == expected

    def test_it_is_ranked_anew_after_strokes(self, begun):
        look_at_all(begun.root, begun.run)
        client, model = Client(begun.root, begun.run), load(begun.run, "cpu")
        first = client.get("/api/next?case=0")
        number = client.store.project.names.index(first["case"])
        per_slice = client.store.drawing(first["case"]).labels[0].size
        run = [first["slice_index"] * per_slice, 30, 1]
        body = {"tab": TAB, "base": 0, "runs": [run]}
        assert client.http.post(f"/api/cases/{number}/strokes", json=body).status_code == 200
        again = client.get("/api/next?case=0")
        best = suggest(model.segmenter, model.to_draw_in(begun.root), 1)[0]
        assert (again["case"], again["slice_index"]) == (best.case, best.slice) != (first["case"], first["slice_index"])

    def test_cases_that_are_done_are_left_out(self, begun):
        look_at_all(begun.root, begun.run)
        client = Client(begun.root, begun.run)
        first = client.get("/api/next?case=0")
        number = client.store.project.names.index(first["case"])
        client.http.post(f"/api/cases/{number}/note", json={"done": True, "flag": ""})
        assert client.get("/api/next?case=0")["case"] != first["case"]

    def test_without_a_network_it_is_the_widest_gap(self, trained):
        client = Client(trained.root)
        assert client.get("/api/next?case=0")["why"] == "the widest gap between drawn slices"


@pytest.mark.usefixtures("no_process")
class TestRuns:
    def test_a_run_of_other_labels_is_refused_in_one_line(self, trained):
        about = Run(trained.run).details
        write_json(trained.run / "run.json", {**about, "label_names": ["background", "liver"]})
        with pytest.raises(DataError, match="expected the labels background, RV, Myo, LV") as refused:
            serve(trained.root, run=trained.run, opens=False)
        assert "\n" not in str(refused.value)

    def test_a_run_of_other_channels_is_refused_in_one_line(self, trained):
        index = trained.run / "slices" / "index.json"
        plain = json.loads(index.read_text())
        plain.pop("sha256", None)
        plain["shape"][0] = 2
        index.write_text(json.dumps(plain))
        with pytest.raises(DataError, match="images of 1 channel"):
            check_run(trained.run, open_project(trained.root))

    def test_the_page_hears_which_tau_the_training_chose(self, trained, tmp_path):
        assert Client(trained.root, trained.run).get("/api/run")["tau"] == Run(trained.run).details["tau"]
        assert Client(trained.root, tmp_path / "none").get("/api/run")["tau"] is None
        copy = shutil.copytree(trained.run, tmp_path / "bright")
        Run(copy).add(likelihood=0.01)
        assert Client(trained.root, copy).get("/api/run")["tau"] is None, "the page knows edges alone"

    def test_a_run_that_is_not_finished_shows_how_far_it_is_and_goes_on(self, trained):
        client = Client(trained.root, trained.run)
        state = client.get("/api/run")["training"]
        assert (state["iteration"], state["of"], state["working"], state["goes_on"]) == (4, 4, False, True)
        shutil.rmtree(trained.run / "recursion_1")
        (trained.run / "metrics.jsonl").unlink()
        state = client.get("/api/run")["training"]
        assert (state["iteration"], state["of"], state["next"], state["goes_on"]) == (2, 4, "run", True)

    def test_a_folder_of_something_else_is_refused(self, trained):
        with pytest.raises(DataError, match="found other files"):
            serve(trained.root, run=trained.root / "images", opens=False)

    def test_the_page_is_ready_without_torch(self):
        script = "import sys, scribbleseg.server.app, scribbleseg.server.run; print('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"


class TestTraining:
    def test_iterations_are_spread_as_the_recipe_spreads_them(self):
        for wanted in (8, 100, 4000):
            stages = default_stages(wanted)
            assert settings(wanted, training.DEFAULT) == [
                *("--set", f"stages.0.iterations={stages[0].iterations}"),
                *("--set", f"stages.1.iterations={stages[1].iterations}"),
            ]

    @pytest.mark.usefixtures("no_process")
    def test_a_training_on_new_strokes_starts_from_the_network_there_is(self, trained, monkeypatch):
        monkeypatch.setattr(training, "_started", _run_instead("pass"))
        client = Client(trained.root, trained.run)
        assert client.get("/api/run")["training"]["starts_from"] == ""
        project = client.store.project
        Drawing(project, next(name for name in project.names if name in project.drawn())).change(Change(0, [(0, 9, 1)]))
        assert client.get("/api/run")["training"]["starts_from"] == "run"
        client.http.post("/api/training", json={"iterations": 8})
        client.runs.training._process.wait(60)
        log = client.get("/api/run")["training"]["log"]
        assert f"--start-from {trained.run} --set stages.0.iterations=4 --set stages.1.iterations=4" in log

    def test_a_run_goes_on_until_strokes_change(self, trained):
        project, started = open_project(trained.root), training.Training(Series(trained.run))
        assert started.target(project, None) == (trained.run, True)
        assert started.target(project, 9999) == (trained.run.with_name("run_2"), False)
        fresh = training.Training(Series(trained.run.with_name("new")))
        assert fresh.target(project, None) == (trained.run.with_name("new"), False)

    def test_strokes_have_changed_where_their_voxels_have_whatever_their_dates_are(self, trained):
        project, started = open_project(trained.root), training.Training(Series(trained.run))
        file = next(iter(project.drawn().values()))
        there, before = nib.load(file), file.stat().st_mtime
        values = np.asarray(there.dataobj).copy()

        def write(values, date):
            nib.save(nib.Nifti1Image(values, there.affine, there.header), file)
            os.utime(file, (date, date))

        write(values, time.time() + 5)  # a stroke that was drawn and undone
        assert started.target(project, None) == (trained.run, True)
        changed = values.copy()
        changed[0, 0, 0] = project.encoding.by_name["LV"]
        write(changed, before - 5)  # restored from a backup, with its date
        assert started.target(project, None) == (trained.run.with_name("run_2"), False)
        write(values, before)
        assert started.target(project, None) == (trained.run, True)
        file.unlink()
        assert started.target(project, None) == (trained.run.with_name("run_2"), False)

    def test_a_case_that_was_drawn_since_is_a_change_and_one_without_strokes_is_none(self, trained):
        project, started = open_project(trained.root), training.Training(Series(trained.run))
        new = next(name for name in project.names if name not in project.drawn())
        drawing = Drawing(project, new)
        drawing.note(True, "blurred")
        assert started.target(project, None) == (trained.run, True)
        drawing.change(Change(0, [(0, 9, 1)]))
        assert started.target(project, None) == (trained.run.with_name("run_2"), False)

    def test_where_a_run_does_not_tell_its_strokes_dates_have_to_do(self, trained):
        index = trained.run / "slices" / "index.json"
        plain = json.loads(index.read_text())
        del plain["sha256"]
        for case in plain["cases"].values():
            del case["strokes"]
        index.write_text(json.dumps(plain))
        project, started = open_project(trained.root), training.Training(Series(trained.run))
        assert started.target(project, None) == (trained.run, True)
        later = time.time() + 5
        os.utime(next(iter(project.drawn().values())), (later, later))
        assert started.target(project, None) == (trained.run.with_name("run_2"), False)

    def test_what_it_says_and_how_it_ended_is_shown(self, trained, monkeypatch):
        monkeypatch.setattr(training, "_started", _run_instead("print('To do: 3 steps.'); raise SystemExit('full')"))
        client = Client(trained.root, trained.root.parent / "other")
        answer = client.http.post("/api/training", json={"iterations": 8})
        assert answer.status_code == 200
        client.runs.training._process.wait(60)
        state = client.get("/api/run")["training"]
        assert (state["working"], state["code"], state["plan"]) == (False, 1, "3 steps.")
        assert state["log"].splitlines()[-1] == "full"
        assert "--set stages.0.iterations=4" in state["log"]

    def test_one_at_a_time_is_at_work_and_it_is_found_and_stopped_by_a_new_server(self, trained, monkeypatch):
        run = trained.run.with_name("other")
        code = f"from scribbleseg.lock import hold; from pathlib import Path; import time; r = Path({str(run)!r})"
        code += "; hold(r); (r / 'run.json').write_text('{}'); print('held', flush=True); time.sleep(60)"
        monkeypatch.setattr(training, "_started", _run_instead(code))
        first = Client(trained.root, run)
        first.http.post("/api/training", json={"iterations": None})
        process = first.runs.training._process
        for _ in range(600):
            if at_work(run) == process.pid:
                break
            time.sleep(0.1)
        second = Client(trained.root, run)
        folder = str(second.runs.training.folder)
        assert folder == str(run)
        assert second.http.post("/api/training", json={"iterations": None}).status_code == 409
        assert second.http.post("/api/training/stop", json={"folder": "elsewhere"}).status_code == 409
        second.runs.training.stop()
        assert process.wait(60) == -signal.SIGTERM
        assert at_work(run) is None
        assert second.http.post("/api/training/stop", json={"folder": folder}).status_code == 409

    @pytest.mark.parametrize("body", [{}, {"iterations": 1}, {"iterations": "9"}, {"iterations": 9, "out": "/"}])
    def test_bodies_that_no_page_sends_start_nothing(self, trained, body):
        client = Client(trained.root, trained.run)
        assert client.http.post("/api/training", json=body).status_code == 422
        assert client.runs.training._process is None


def _run_instead(code):
    """Starts Python with some code in the place of the training, and its output in the same log."""

    def start(words, log):
        log.write_text(f"$ scribbleseg {' '.join(words)}\n")
        with Path(log).open("ab") as file:
            return subprocess.Popen([sys.executable, "-c", code], stdout=file, stderr=file, start_new_session=True)

    return start


def test_the_drawn_slices_are_known_along_each_axis(trained):
    client = Client(trained.root)
    store = client.store
    for name in store.project.names:
        drawn = store.drawn(name, store.project.drawn().get(name))
        labels = store.drawing(name).labels
        if drawn is None:
            assert (labels == UNLABELLED).all()
            continue
        for axis in range(3):
            expected = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1) != UNLABELLED
            np.testing.assert_array_equal(drawn[axis], expected.any(axis=1))
