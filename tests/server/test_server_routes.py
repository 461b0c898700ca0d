import asyncio
import json
import random
import re
import shutil
import string

import nibabel as nib
import numpy as np
import PIL.Image
import pytest

from scribbleseg.data import open_dataset
from scribbleseg.data.formats import write_labels
from scribbleseg.data.intensities import normalise
from scribbleseg.phantoms import write_phantoms
from scribbleseg.seeds import AUTOMATIC
from scribbleseg.server.app import make_app
from scribbleseg.server.bodies import MOST_JSON
from scribbleseg.server.drawing import RECOVERED
from scribbleseg.server.guard import Guard
from scribbleseg.server.merge import merge
from scribbleseg.server.project import LOCKS, named, open_again, open_merged, open_project
from scribbleseg.server.suggest import evenly_spaced
from scribbleseg.types import UNLABELLED, DataError

testclient = pytest.importorskip("starlette.testclient", reason="httpx is of the dev extra")

TAB = "0123456789abcdef0123"


class Client:
    """A browser that was opened with the key."""

    def __init__(self, root, annotator="", run=None):
        app, self.store, self.runs = make_app(open_again(root, annotator), run)
        self.guard = Guard(app, "scribbleseg_test")
        self.http = testclient.TestClient(self.guard, base_url="http://127.0.0.1:8017", raise_server_exceptions=True)
        assert self.http.get("/", params={"key": self.guard.key}).status_code == 200

    def get(self, path, **more):
        return self.http.get(path, **more)

    def post(self, path, **body):
        return self.http.post(path, json=body)

    def draw(self, case, runs, base=0, **more):
        return self.post(f"/api/cases/{case}/strokes", tab=TAB, base=base, runs=runs, **more)


@pytest.fixture
def client(root):
    return Client(root)


def files_in(root):
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


class TestDrawing:
    def test_strokes_are_written_in_the_declared_values_on_the_grid_of_the_image(self, root, client, sets):
        # The volume is stored as it is looked at: left to right, front to back, then slice by slice.
        answer = client.draw(0, [[0, 3, 1], [12 * 10 * 2 + 12, 2, 2], [13, 1, 0]], strokes={"1": 1}, seconds=2.5)
        assert answer.json() == {"version": 1, "alone": True, "kept": ""}
        saved = nib.load(root / "scribbles" / "a.nii.gz")
        expected = np.zeros((12, 10, 4))
        expected[0:3, 0, 0], expected[0:2, 1, 2], expected[1, 1, 0] = sets.labels["liver"], sets.labels["tumour"], 9
        np.testing.assert_array_equal(np.asarray(saved.dataobj), expected)
        np.testing.assert_array_equal(saved.affine, nib.load(root / "images" / "a.nii.gz").affine)
        assert json.loads((root / "dataset.json").read_text()) == {"labels": sets.labels, "note": "kept"}
        case = open_dataset(root).train.named("a")
        assert (case.scribbles != UNLABELLED).sum() == 6
        record = json.loads((root / "scribbles" / "a_annotation.json").read_text())
        assert (record["seconds"], record["strokes"]) == (2.5, {"liver": 1})
        assert record["ink_voxels"] == {"background": 1, "liver": 3, "tumour": 2}
        assert record["slices_drawn"] == 2

    def test_what_is_erased_is_unlabelled_and_what_was_never_drawn_has_no_file(self, root, client):
        client.post("/api/cases/1/note", done=False, flag="blurred")
        assert not (root / "scribbles" / "b.nii.gz").exists()
        assert not open_project(root).drawn()
        client.draw(0, [[5, 4, 2]])
        client.draw(0, [[5, 4, UNLABELLED]], base=1)
        assert not np.asarray(nib.load(root / "scribbles" / "a.nii.gz").dataobj).any()

    @pytest.mark.parametrize(
        "runs", [[[-1, 1, 1]], [[480, 1, 1]], [[0, 0, 1]], [[0, 481, 1]], [[0, 1, 3]], [[0, 2**63 - 1, 1]]]
    )
    def test_changes_that_no_page_can_have_made_are_refused_whole(self, root, client, runs):
        assert client.draw(0, [[0, 1, 1], *runs]).status_code == 422
        assert not (root / "scribbles").exists()

    def test_of_two_tabs_the_second_is_told_and_both_keep_their_strokes(self, client):
        told = [client.post("/api/cases/0/presence", tab=tab).json()["taken"] for tab in (TAB, "f" * 20)]
        assert told == [False, True]
        client.draw(0, [[0, 2, 1]])
        other = client.draw(0, [[8, 2, 2]])  # of a page that knows nothing of the first
        assert other.json() == {"version": 2, "alone": False, "kept": ""}
        labels = np.frombuffer(client.get("/api/cases/0/labels").content, np.uint8)
        assert labels[[0, 1, 8, 9]].tolist() == [1, 1, 2, 2]
        assert client.post("/api/cases/0/presence", tab="f" * 20, take=True).json()["taken"] is False
        assert client.post("/api/cases/0/presence", tab=TAB).json()["taken"] is True

    def test_a_file_that_was_changed_meanwhile_is_kept_beside_ours(self, root, client, sets):
        client.draw(0, [[0, 2, 1]])
        file = root / "scribbles" / "a.nii.gz"
        theirs = nib.load(file)
        voxels = np.asarray(theirs.dataobj).copy()
        voxels[3, 3, 3] = sets.labels["tumour"]
        nib.save(nib.Nifti1Image(voxels, theirs.affine), file)
        before = file.read_bytes()
        answer = client.draw(0, [[7, 1, 1]], base=1).json()
        assert (root / answer["kept"]).read_bytes() == before
        assert np.asarray(nib.load(file).dataobj)[7, 0, 0] == sets.labels["liver"]
        assert open_dataset(root).train.names == ("a",)

    def test_a_file_that_changes_while_ours_is_being_written_is_kept(self, root, client, monkeypatch):
        client.draw(0, [[0, 2, 1]])
        file = root / "scribbles" / "a.nii.gz"
        theirs = file.read_bytes()[::-1]

        def slow(path, *more):
            write_labels(path, *more)
            file.write_bytes(theirs)  # another program is done before we are

        monkeypatch.setattr("scribbleseg.server.drawing.write_labels", slow)
        answer = client.draw(0, [[7, 1, 1]], base=1).json()
        assert (root / answer["kept"]).read_bytes() == theirs
        assert np.asarray(nib.load(file).dataobj)[[0, 1, 7], 0, 0].tolist() == [2, 2, 2]
        assert not [path for path in (root / "scribbles").rglob("*") if path.name.startswith(".") and path.is_file()]

    def test_a_file_that_was_changed_and_cannot_be_read_is_kept(self, root, client):
        client.draw(0, [[0, 2, 1]])
        file = root / "scribbles" / "a.nii.gz"
        nib.save(nib.Nifti1Image(np.full((12, 10, 4), 77, np.uint8), nib.load(file).affine), file)
        before = file.read_bytes()
        for _ in range(2):
            assert client.post("/api/cases/0/presence", tab=TAB).status_code == 422
        answer = client.draw(0, [[7, 1, 1]], base=1).json()
        assert (root / answer["kept"]).read_bytes() == before

    def test_strokes_that_are_recovered_replace_nothing_unseen(self, root, client):
        client.draw(0, [[0, 4, 1]])
        before = (root / "scribbles" / "a.nii.gz").read_bytes()
        assert client.draw(0, [[8, 2, 2], [0, 4, 1]], base=RECOVERED).json()["kept"] == ""
        between = (root / "scribbles" / "a.nii.gz").read_bytes()
        kept = client.draw(0, [[2, 2, UNLABELLED]], base=RECOVERED).json()["kept"]
        assert (root / kept).read_bytes() == between != before

    def test_time_is_counted_once_however_often_saving_is_tried(self, root, client, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(nib, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            for _ in range(3):
                assert client.draw(0, [[0, 2, 1]], base=-5, seconds=2.0, strokes={"1": 1}).status_code == 507
        assert client.draw(0, [[0, 2, 1]], base=-5, seconds=2.0, strokes={"1": 1}).status_code == 200
        record = json.loads((root / "scribbles" / "a_annotation.json").read_text())
        assert (record["seconds"], record["strokes"]) == (2.0, {"liver": 1})

    def test_a_case_that_was_closed_keeps_its_version_until_its_file_changes(self, root, sets):
        for name in "cd":
            sets.write_volume(root / "images" / f"{name}.nii.gz")
        client = Client(root)
        client.get("/api/cases/0")
        client.draw(0, [[0, 2, 1]])
        for case in (1, 2, 3):
            client.get(f"/api/cases/{case}")
        assert client.get("/api/cases/0").json()["version"] == 1
        for case in (1, 2, 3):
            client.get(f"/api/cases/{case}")
        file = root / "scribbles" / "a.nii.gz"
        nib.save(nib.Nifti1Image(np.full((12, 10, 4), 5, np.uint8), nib.load(file).affine), file)
        assert client.get("/api/cases/0").json()["version"] == 2

    def test_there_are_never_two_drawings_of_a_case_that_write_over_each_other(self, root, sets):
        for name in "cd":
            sets.write_volume(root / "images" / f"{name}.nii.gz")
        store = Client(root).store
        at_work = store.opened("a").drawing  # in a thread that is about to save
        for name in "bcd":
            store.opened(name)
        assert store.drawing("a") is at_work

    def test_a_file_that_was_changed_is_read_anew_where_nothing_is_unsaved(self, root, client):
        client.draw(0, [[0, 2, 1]])
        file = root / "scribbles" / "a.nii.gz"
        there = nib.load(file)
        nib.save(nib.Nifti1Image(np.full((12, 10, 4), 5, np.uint8), there.affine), file)
        answer = client.post("/api/cases/0/presence", tab=TAB).json()
        assert answer == {"taken": False, "version": 2, "changed": True, "unsaved": False}
        assert set(client.get("/api/cases/0/labels").content) == {2}

    def test_what_cannot_be_written_is_kept_and_written_when_it_can(self, root, client, monkeypatch):
        client.draw(0, [[0, 2, 1]])
        before = (root / "scribbles" / "a.nii.gz").read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(nib, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            answer = client.draw(0, [[4, 2, 2]], base=1)
            assert answer.status_code == 507
            assert "No space left" in answer.json()["error"]
            assert (root / "scribbles" / "a.nii.gz").read_bytes() == before
            assert client.store.flush()
        assert client.store.flush() == []
        assert np.asarray(nib.load(root / "scribbles" / "a.nii.gz").dataobj)[:6, 0, 0].tolist() == [2, 2, 0, 0, 5, 5]

    def test_scribbles_of_a_format_that_is_not_written_are_kept_and_replaced(self, root, sets):
        values = np.zeros((4, 10, 12), np.uint8)
        values[1, 2, 3] = sets.labels["tumour"]
        import SimpleITK

        image = SimpleITK.GetImageFromArray(values)
        image.SetSpacing((1, 1, 5))
        (root / "scribbles").mkdir()
        SimpleITK.WriteImage(image, root / "scribbles" / "a.nrrd")
        before = (root / "scribbles" / "a.nrrd").read_bytes()
        answer = Client(root).draw(0, [[0, 1, 1]]).json()
        assert (root / answer["kept"]).read_bytes() == before
        assert open_dataset(root).train.named("a").scribbles[1, 2, 3] == 2
        assert sorted(path.name for path in (root / "scribbles").glob("a.*")) == ["a.nii.gz"]

    def test_full_masks_without_a_value_for_unlabelled_get_one_when_scribbles_are_drawn(self, root, sets):
        sets.declare(root, {"background": 0, "liver": 1, "tumour": 2})
        (root / "masks").mkdir()
        nib.save(
            nib.Nifti1Image(np.ones((12, 10, 4), np.uint8), np.diag([-1.0, -1, 5, 1])), root / "masks" / "a.nii.gz"
        )
        Client(root).draw(0, [[0, 3, 1]])
        assert (open_dataset(root).train.named("a").scribbles == 1).sum() == 3
        assert json.loads((root / "dataset.json").read_text())["labels"]["ignore"] == 3

    def test_nnunet_is_drawn_on_in_its_own_files(self, tmp_path, sets):
        sets.write_volume(tmp_path / "imagesTr" / "a_0000.nii.gz")
        (tmp_path / "labelsTr").mkdir()
        labels = {"background": 0, "liver": 1, "ignore": 2}
        declaration = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz", "numTraining": 1}
        (tmp_path / "dataset.json").write_text(json.dumps(declaration))
        client = Client(tmp_path)
        client.draw(0, [[0, 3, 1]])
        client.draw(0, [[0, 3, UNLABELLED]], base=1)
        assert (np.asarray(nib.load(tmp_path / "labelsTr" / "a.nii.gz").dataobj) == 2).all()
        assert json.loads((tmp_path / "dataset.json").read_text()) == declaration

    def test_pictures_in_colour_are_shown_and_drawn_on_as_png(self, tmp_path, sets):
        colours = np.random.default_rng(0).integers(0, 255, (7, 9, 3)).astype(np.uint8)
        PIL.Image.fromarray(colours).save(tmp_path / "p.png")
        sets.declare(tmp_path)
        client = Client(tmp_path)
        described = client.get("/api/cases/0").json()
        assert (described["kind"], described["shape"], described["unit"]) == ("colour", [1, 7, 9], "px")
        for n in range(3):
            channel = client.get(f"/api/cases/0/channels/{n}")
            slope, intercept = map(float, channel.headers["X-Scale"].split())
            shown = np.frombuffer(channel.content, np.uint8).reshape(7, 9) * slope + intercept
            np.testing.assert_array_equal(shown, colours[..., n])
        client.draw(0, [[9 * 2 + 3, 4, 2]])
        saved = np.asarray(PIL.Image.open(tmp_path / "scribbles" / "p.png"))
        assert (saved[2, 3:7] == sets.labels["tumour"]).all()
        assert (saved > 0).sum() == 4


class TestProjects:
    def test_each_annotator_has_a_folder_that_training_can_use(self, tmp_path):
        write_phantoms(tmp_path / "h", train=2, test=0, shape=(3, 48, 48))
        before = files_in(tmp_path / "h")
        client = Client(tmp_path / "h", "Ann B.")
        assert client.get("/api/cases").json()[0]["state"] == "untouched"
        client.draw(0, [[100, 5, 3]])
        folder = tmp_path / "h" / "annotators" / "Ann B."
        case = open_dataset(tmp_path / "h", scribbles=folder).train.named("train000")
        assert (case.scribbles == 3).sum() == (case.scribbles != UNLABELLED).sum() == 5
        assert {path: content for path, content in files_in(tmp_path / "h").items() if path in before} == before

    def test_folders_of_images_ask_for_names_once(self, tmp_path, sets):
        sets.write_volume(tmp_path / "x.nii.gz")
        client = Client(tmp_path)
        assert client.get("/api/project").json()["labels"] == []
        assert client.get("/api/cases/0").status_code == 409
        for names in ([], [""], ["a", "A"], ["ignore"], ["Background"], ["x" * 61], ["a\n\0"], ["a"] * 300, "liver"):
            assert client.post("/api/project/structures", names=names).status_code == 422
        assert client.post("/api/project/structures", names=["liver", " left  kidney "]).status_code == 200
        assert client.post("/api/project/structures", names=["other"]).status_code == 422
        labels = {"background": 0, "liver": 1, "left kidney": 2, "ignore": 3}
        assert json.loads((tmp_path / "dataset.json").read_text()) == {"labels": labels}
        client.draw(0, [[0, 5, 1]])
        assert (open_dataset(tmp_path).train.named("x").scribbles == 1).sum() == 5

    @pytest.mark.parametrize("place", ["images", "."])
    def test_an_annotators_scribbles_on_images_alone_can_be_trained_on(self, tmp_path, sets, place):
        for name in "abc":
            sets.write_volume(tmp_path / place / f"{name}.nii.gz")
        client = Client(tmp_path, "ann")
        assert client.post("/api/project/structures", names=["liver"]).status_code == 200
        client.draw(1, [[0, 3, 1]])
        dataset = open_dataset(tmp_path, scribbles=tmp_path / "annotators" / "ann")
        assert (dataset.train.names, dataset.test.names) == (("b",), ("a", "c"))
        assert (dataset.train[0].scribbles == 1).sum() == 3
        again = open_dataset(dataset.root, dataset.name, **dataset.options)
        assert again.train.names == ("b",)

    def test_two_annotators_are_merged_once_and_disagreements_are_unlabelled(self, root):
        Client(root, "ann").draw(0, [[0, 10, 1], [200, 4, 2]])
        Client(root, "bob").draw(0, [[5, 10, 1], [202, 4, 0]])
        project = open_merged(root, ["ann", "bob"])
        assert merge(project) == {"a": 2}
        labels = open_dataset(root, scribbles=root / "annotators" / "ann+bob").train.named("a").scribbles.reshape(-1)
        assert (labels[:15] == 1).all()
        assert labels[200:206].tolist() == [2, 2, UNLABELLED, UNLABELLED, 0, 0]
        assert (labels != UNLABELLED).sum() == 19
        flag = json.loads((project.folder / "a_annotation.json").read_text())["flag"]
        assert flag == "ann and bob differ in 2 voxels of slices 2"
        before = files_in(root)
        Client(root, "bob").draw(0, [[0, 1, 2]])
        assert merge(open_merged(root, ["ann", "bob"])) == {}
        assert files_in(project.folder) == {file: before[file] for file in files_in(project.folder)}
        assert not (project.folder / "b.nii.gz").exists()

    def test_of_a_merged_case_each_annotators_strokes_can_be_told(self, root):
        Client(root, "ann").draw(0, [[0, 10, 1], [200, 4, 2]])
        Client(root, "bob").draw(0, [[5, 10, 1], [202, 4, 0]])
        merge(open_merged(root, ["ann", "bob"]))
        client = Client(root, "ann+bob")
        assert client.get("/api/project").json()["merged"] == ["ann", "bob"]
        ann, bob = (np.frombuffer(client.get(f"/api/cases/0/labels/{n}").content, np.uint8) for n in range(2))
        assert np.flatnonzero(ann == 1).tolist() == [*range(10)]
        assert np.flatnonzero(bob == 1).tolist() == [*range(5, 15)]
        assert (ann[202], bob[202]) == (2, 0)
        for other in ("2", "-1", "ann"):
            assert client.get(f"/api/cases/0/labels/{other}").status_code == 404
        assert Client(root).get("/api/cases/0/labels/0").status_code == 404

    @pytest.mark.parametrize("names", [["ann"], ["ann", "ann"], ["ann", "eve"], ["ann", "../ann"], []])
    def test_only_annotators_that_there_are_can_be_merged(self, root, names):
        for name in ("ann", "bob"):
            Client(root, name).draw(0, [[0, 3, 1]])
        with pytest.raises(DataError, match="expected two or more of the annotators ann, bob"):
            open_merged(root, names)

    def test_an_annotator_may_draw_on_cases_that_nobody_else_has_drawn_on(self, root):
        Client(root).draw(0, [[0, 3, 1]])
        Client(root, "ann").draw(1, [[0, 5, 2]])
        dataset = open_dataset(root, scribbles=root / "annotators" / "ann")
        assert dataset.train.names == ("a", "b")
        assert [int((case.scribbles != UNLABELLED).sum()) for case in dataset.train] == [0, 5]
        assert open_dataset(root).train.names == ("a",)

    def test_public_data_sets_are_not_written_to_but_in_an_annotators_folder(self, tmp_path, sets):
        for name in ("Case00", "Case01"):
            sets.write_volume(tmp_path / "p" / f"{name}.nii.gz")
            mask = np.zeros((12, 10, 4), np.uint8)
            nib.save(nib.Nifti1Image(mask, np.diag([-1.0, -1, 5, 1])), tmp_path / "p" / f"{name}_segmentation.nii.gz")
        before = files_in(tmp_path)
        project = open_project(tmp_path / "p")
        assert project.folder == tmp_path / "p" / "annotators" / "drawn"
        Client(tmp_path / "p").draw(0, [[0, 3, 1]])
        assert {path: content for path, content in files_in(tmp_path).items() if path in before} == before

    @pytest.mark.parametrize("name", ["..", ".", "a/b", "../x", "/etc", "a\\b", "-rf", "", "x" * 61, "a\n"])
    def test_names_that_are_no_folders_are_refused(self, root, name):
        if name:
            with pytest.raises(DataError, match="--annotator"):
                open_project(root, name)

    def test_links_that_lead_out_of_the_data_set_are_refused(self, root, tmp_path_factory, sets):
        outside = tmp_path_factory.mktemp("outside")
        sets.write_volume(outside / "secret.nii.gz")
        (root / "images" / "c.nii.gz").symlink_to(outside / "secret.nii.gz")
        client = Client(root)
        answer = client.get("/api/cases/2")
        assert answer.status_code == 422
        assert "link" in answer.json()["error"]
        assert "link" in client.get("/api/cases").json()[2]["error"]
        assert client.get("/api/cases/0").status_code == 200
        (root / "scribbles").mkdir()
        (root / "scribbles" / "b.nii.gz").symlink_to(outside / "secret.nii.gz")
        assert "link" in client.get("/api/cases/1").json()["error"]
        shutil.rmtree(root / "scribbles")
        (root / "scribbles").symlink_to(outside)
        assert client.draw(0, [[0, 1, 1]]).status_code == 507
        assert client.post("/api/cases/0/note", done=True).status_code == 422
        assert [path.name for path in outside.iterdir()] == ["secret.nii.gz"]
        with pytest.raises(DataError, match="link"):
            open_project(root)

    @pytest.mark.parametrize("link", [LOCKS, "scribbles/.kept"])
    def test_links_among_the_files_that_are_written_beside_scribbles_are_refused(self, root, tmp_path_factory, link):
        outside = tmp_path_factory.mktemp("outside")
        client = Client(root)
        client.draw(0, [[0, 1, 1]])
        (root / link).symlink_to(outside)
        (root / "scribbles" / "a.nii.gz").write_bytes(b"theirs")
        assert client.draw(0, [[0, 1, 1]]).status_code == 507
        assert not list(outside.iterdir())

    def test_an_image_that_cannot_be_read_is_named_and_the_rest_works(self, root):
        (root / "images" / "a.nii.gz").write_bytes(b"no image")
        client = Client(root)
        client.store.look_at_all()
        first, second = client.get("/api/cases").json()
        assert "a.nii.gz" in first["error"]
        assert second["error"] == ""
        assert client.get("/api/cases/0").status_code == 422
        assert client.get("/api/cases/1").status_code == 200
        assert client.get("/api/next?case=0").json()["case"] == "b"

    def test_scribbles_of_unknown_meaning_are_refused_at_the_start(self, root):
        (root / "dataset.json").unlink()
        (root / "scribbles").mkdir()
        nib.save(nib.Nifti1Image(np.ones((12, 10, 4), np.uint8), np.eye(4)), root / "scribbles" / "a.nii.gz")
        with pytest.raises(DataError, match="what the scribbles' values mean"):
            open_project(root)


class TestAreas:
    def test_they_are_those_of_the_recipe(self, tmp_path):
        write_phantoms(tmp_path / "h", train=1, test=0, shape=(3, 64, 64))
        client = Client(tmp_path / "h")
        case = open_dataset(tmp_path / "h").train[0]
        from dataclasses import replace

        grown = replace(AUTOMATIC, tau=0.9)(normalise(case.image), case.scribbles, case.spacing_mm)
        for z in range(len(grown)):
            answer = client.http.post(
                f"/api/cases/0/areas?slice={z}&tau=0.9&beta=400", content=case.scribbles[z].tobytes()
            )
            ours = np.frombuffer(answer.content, np.uint8).reshape(grown[z].shape)
            assert (ours != grown[z]).mean() < 1e-3  # float32 against float64
        assert (grown != case.scribbles).mean() > 0.1

    @pytest.mark.parametrize(
        "query",
        [
            "slice=4&tau=0.9&beta=9",
            "slice=0&tau=nan&beta=9",
            "slice=0&tau=0.9&beta=inf",
            "slice=0&tau=0.5&beta=9",
            "tau=0.9&beta=9",
            "slice=-1&tau=.9&beta=9",
        ],
    )
    def test_numbers_out_of_bounds_are_refused(self, client, query):
        assert client.http.post(f"/api/cases/0/areas?{query}", content=bytes(120)).status_code in (404, 422)

    @pytest.mark.parametrize("body", [b"", bytes(119), bytes(121), b"\x07" * 120])
    def test_bodies_of_other_shapes_are_refused(self, client, body):
        answer = client.http.post("/api/cases/0/areas?slice=0&tau=0.9&beta=9", content=body)
        assert answer.status_code in (413, 422)


class TestSecurity:
    def test_nobody_enters_without_the_key(self, client):
        stranger = testclient.TestClient(client.guard, base_url="http://127.0.0.1:8017")
        for path in (
            "/",
            "/?key=",
            "/?key=wrong",
            "/api/cases",
            "/static/main.js",
            f"/api/cases?key={client.guard.key}",
        ):
            assert stranger.get(path).status_code == 403
        stranger.cookies.set("scribbleseg_test", "guess")
        assert stranger.get("/api/cases").status_code == 403

    def test_the_cookie_is_for_this_site_and_not_for_scripts(self, client):
        cookie = client.get("/", params={"key": client.guard.key}).headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert client.guard.key not in cookie

    def test_cookies_of_other_programs_on_this_machine_do_not_shut_the_page(self, client):
        session = client.http.cookies["scribbleseg_test"]
        for other in ('theme={"dark": true}', "a b", 'x="', "=", "\u00e9=1", ";;"):
            cookie = f"{other}; scribbleseg_test={session}; z=1".encode()
            stranger = testclient.TestClient(client.guard, base_url="http://127.0.0.1:8017")
            assert stranger.get("/api/cases", headers={"cookie": cookie}).status_code == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {"host": "evil.example"},
            {"host": "127.0.0.1.evil.example:8017"},
            {"host": ""},
            {"host": "8.8.8.8"},
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"origin": "http://127.0.0.1:9"},
            {"origin": "https://127.0.0.1:8017"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
        ],
    )
    def test_foreign_hosts_and_origins_are_refused(self, client, headers):
        assert client.get("/api/cases", headers=headers).status_code == 403
        key = {"key": client.guard.key}
        assert client.get("/", params=key, headers=headers).status_code == 403

    def test_the_page_runs_nothing_but_its_own_scripts(self, client):
        for path in ("/", "/static/main.js", "/api/cases", "/nothing"):
            policy = client.get(path).headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
        assert client.get("/static/main.js").headers["content-type"].startswith("text/javascript")
        html = client.get("/").text
        assert not re.search(r"<script(?! type=\"module\" src=\"/static/)|\son\w+=|\sstyle=|https?://", html)

    @pytest.mark.parametrize(
        "path",
        [
            "/static/../app.py",
            "/static/%2e%2e/app.py",
            "/static/..%2fapp.py",
            "/static//etc/passwd",
            "/static/%2fetc%2fpasswd",
            "/static/..\\app.py",
            "/static/main.js%00",
            "/static/",
        ],
    )
    def test_no_path_leads_elsewhere(self, client, path):
        assert client.get(path).status_code == 404

    def test_bodies_are_bounded(self, client):
        answer = client.http.post(
            "/api/cases/0/note", content=b" " * (MOST_JSON + 1), headers={"content-type": "application/json"}
        )
        assert answer.status_code == 413
        assert client.http.post("/api/cases/0/note", content=b"done=1").status_code == 415

    def test_a_thousand_malformed_requests_change_nothing(self, root, client):
        rng = random.Random(0)
        client.draw(0, [[0, 3, 1]])
        before = files_in(root)
        paths = [route.path for route in client.http.app.app.routes]
        odd = [
            "",
            "-1",
            "99",
            "1e3",
            "0x1",
            "..",
            "%2e%2e%2f",
            "a b",
            "\u00e9",
            "9" * 5000,
            "0;",
            "null",
            "%00",
            "true",
            "1.0",
            "\u0663",
        ]
        bodies = [
            b"",
            b"{",
            b"null",
            b"[]",
            b"\xff\xfe",
            b"{}" * 9,
            b'"x"',
            b"[" * 2000,
            b'{"tab": 1}',
            b'{"done": "yes"}',
            b'{"names": [1]}',
        ]
        fields = ["tab", "base", "runs", "done", "flag", "names", "take", "seconds", "strokes", "other"]
        values = [
            None,
            -1,
            1e308,
            "",
            "x",
            [],
            {},
            [[1, 2]],
            [[0, 1, 300]],
            [["a", 1, 1]],
            2**70,
            {"a": -1},
            True,
            "\u0000",
        ]
        for _ in range(1000):
            path = re.sub(r"\{\w+\}", lambda _: rng.choice(odd), rng.choice(paths))
            if rng.random() < 0.3:
                path += "?" + "".join(rng.choices(string.printable[:94], k=12))
            body = rng.choice(bodies)
            if rng.random() < 0.5:
                body = json.dumps({rng.choice(fields): rng.choice(values) for _ in range(3)}).encode()
            method = rng.choice(["POST", "PUT", "DELETE", "PATCH", "POST", "OPTIONS", "TRACE"])
            kind = rng.choice(["application/json", "text/plain", "", "application/json; charset=utf-9"])
            answer = client.http.request(method, path, content=body, headers={"content-type": kind})
            assert 400 <= answer.status_code < 500, (method, path, body, answer.status_code)
            assert "Traceback" not in answer.text
        assert files_in(root) == before
        assert client.get("/api/cases/0").status_code == 200


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [([0, 0, 0, 0, 0], 2), ([0, 0, 1, 0, 0], 0), ([1, 0, 0, 0, 1], 2), ([1, 1, 1, 1, 1], None), ([1], None)],
)
def test_the_next_slice_is_in_the_widest_gap(drawn, expected):
    assert evenly_spaced(np.array(drawn, bool)) == expected


def test_two_servers_of_one_folder_do_not_exchange_what_labels_mean(tmp_path, sets):
    sets.write_volume(tmp_path / "a.nii.gz")
    first, second = open_project(tmp_path), open_project(tmp_path)
    one = named(first, ["disc"])
    before = (tmp_path / "dataset.json").read_bytes()
    with pytest.raises(DataError, match="start it again"):
        named(second, ["cup", "rim"])
    one.declare()
    assert (tmp_path / "dataset.json").read_bytes() == before


def test_looking_for_the_next_slice_keeps_no_drawing_in_memory(root, sets):
    for name in "cdef":
        sets.write_volume(root / "images" / f"{name}.nii.gz")
    client = Client(root)
    for case in range(5):
        for z in range(4):
            client.draw(case, [[120 * z, 2, 1]])
    fresh = Client(root)
    assert fresh.get("/api/next?case=0").json()["case"] == "f"
    assert list(fresh.store._drawings) == ["f"]


def test_a_page_that_is_closed_while_it_sends_something_is_no_mistake(client):
    """Its body ends early, and nobody hears the answer; on the terminal nothing is said."""
    told = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        told.append(message["type"])

    cookie = f"scribbleseg_test={client.http.cookies['scribbleseg_test']}"
    headers = [(b"host", b"127.0.0.1:8017"), (b"cookie", cookie.encode()), (b"origin", b"http://127.0.0.1:8017")]
    headers.append((b"content-type", b"application/json"))
    scope = {"type": "http", "http_version": "1.1", "scheme": "http", "method": "POST", "query_string": b""}
    scope |= {"path": "/api/cases/0/strokes", "raw_path": b"", "root_path": "", "headers": headers}
    scope |= {"server": ("127.0.0.1", 8017), "client": ("127.0.0.1", 1)}
    asyncio.run(client.guard(scope, receive, send))
    assert told[0] == "http.response.start"
