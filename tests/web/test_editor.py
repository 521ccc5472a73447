"""In a real browser: drop, drag, turn, type, undo, save, reload, render, and every refusal that a page can show."""

import json
import re
import signal

import pytest

from anyphoto_cli.geometry import face_height
from anyphoto_cli.layout.schema import load_layout
from tests.conftest import ROOT

PEOPLE = ROOT / "examples" / "drawn_people"


def opened(page, editor):
    page.goto(editor.address)
    page.wait_for_selector("body[data-ready=yes]")
    return page


def settled(page):
    """After the server has looked at the last change."""
    page.wait_for_timeout(450)


def until(page, expression, seconds=60):
    """Playwright's own waiting evaluates text in the page, which the page's policy forbids."""
    for _ in range(seconds * 10):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never came true: {expression}")


def place(editor_or_page, index=0):
    return editor_or_page.locator(f".person[data-index='{index}']")


def box_of(locator):
    """Drawing anew replaces what is inside a face: ask until it is there."""
    for _ in range(50):
        if (box := locator.bounding_box()) is not None:
            return box
        locator.page.wait_for_timeout(100)
    raise AssertionError(f"{locator} is not there")


def drag(page, target, dx, dy):
    """From the middle of something, so far; then wait for the server's look at it."""
    box = box_of(target)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx, y + dy, steps=6)
    page.mouse.up()
    settled(page)


def saved(page, layout):
    with page.expect_response(lambda answer: "/api/save" in answer.url) as answer:
        page.click("#save")
    assert answer.value.ok
    return load_layout(layout)


def render_for_long(page):
    """Until it is under way."""
    page.fill("#steps", "900")
    page.locator("#steps").blur()
    page.click("#render")
    until(page, "document.getElementById('steps-done').value > 2")


def drop(page, files, x, y):
    """Files dropped on the canvas, as a desktop does it."""
    import base64

    told = [{"name": file.name, "data": base64.b64encode(file.read_bytes()).decode()} for file in files]
    page.evaluate("""([files, x, y]) => {
      const transfer = new DataTransfer();
      for (const one of files) {
        const bytes = Uint8Array.from(atob(one.data), (c) => c.charCodeAt(0));
        transfer.items.add(new File([bytes], one.name, { type: "image/png" }));
      }
      const target = document.elementFromPoint(x, y);
      for (const kind of ["dragover", "drop"]) {
        target.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: transfer, clientX: x, clientY: y }));
      }
    }""", [told, x, y])  # fmt: skip


def test_from_nothing_to_a_saved_layout(start, page, tmp_path):
    editor = start(tmp_path / "trip.json")
    opened(page, editor)
    assert page.url == f"{editor.root}/"  # the token is out of sight
    assert page.is_visible("#empty")
    box = box_of(page.locator("#stage"))
    drop(page, [PEOPLE / "mia.png"], box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.4)
    page.wait_for_selector("#people li small:has-text('face at')")
    page.set_input_files("#files", [PEOPLE / "theo.png"])
    page.wait_for_selector("#people li:nth-child(2) small:has-text('face at')")
    settled(page)
    page.fill("#prompt", "a photo of two friends in a park")
    page.locator("#prompt").blur()
    layout = saved(page, tmp_path / "trip.json")
    assert [face.name for face in layout.faces] == ["mia", "theo"] and layout.prompt.endswith("in a park")
    x, y = layout.faces[0].place.mean(0) / [layout.width, layout.height]
    assert abs(x - 0.3) < 0.02 and abs(y - 0.4) < 0.02
    middle, size = layout.faces[1].place.mean(0), face_height(layout.faces[1].place)
    assert min(*middle, *([layout.width, layout.height] - middle)) > 0.64 * size  # away from the edges, and from her
    assert ((middle - layout.faces[0].place.mean(0)) ** 2).sum() > (1.3 * size) ** 2
    until(page, "() => document.querySelector('#saved').textContent === 'saved'")
    assert not page.problems
    page.reload()
    page.wait_for_selector("body[data-ready=yes]")
    assert page.locator(".person").count() == 2 and page.input_value("#prompt").endswith("in a park")


def test_dragged_scaled_and_turned(start, page, friends):
    editor = start(friends)
    opened(page, editor)
    settled(page)
    before = load_layout(friends)
    scale = before.width / box_of(page.locator("#stage"))["width"]
    drag(page, place(page).locator(".frame"), 60, 30)
    moved = saved(page, friends)
    away = moved.faces[0].place.mean(0) - before.faces[0].place.mean(0)
    assert abs(away[0] - 60 * scale) < 1 and abs(away[1] - 30 * scale) < 1
    drag(page, page.locator(".handle[data-do=scale]"), 40, 40)
    larger = saved(page, friends)
    assert face_height(larger.faces[0].place) > 1.15 * face_height(moved.faces[0].place)
    drag(page, page.locator(".handle[data-do=turn]"), 54, 14)
    turned = saved(page, friends)
    eyes = turned.faces[0].place[1] - turned.faces[0].place[0]
    assert eyes[1] / eyes[0] > 0.1  # the right eye, as seen, has gone down
    assert abs(face_height(turned.faces[0].place) / face_height(larger.faces[0].place) - 1) < 0.02
    for _ in range(3):
        page.click("#undo")
    settled(page)
    assert abs(saved(page, friends).faces[0].place - before.faces[0].place).max() < 0.06
    page.click("#redo")
    assert abs(saved(page, friends).faces[0].place - moved.faces[0].place).max() < 0.06
    assert not page.problems


def test_by_keyboard_alone(start, page, friends):
    editor = start(friends)
    opened(page, editor)
    before = load_layout(friends)
    place(page).focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Shift+ArrowRight", "+", "]"):
        page.keyboard.press(key)
    page.keyboard.press("Control+s")
    until(page, "document.getElementById('saved').textContent === 'saved'")
    now = load_layout(friends)
    away = now.faces[0].place.mean(0) - before.faces[0].place.mean(0)
    assert abs(away[0] - 18) < 0.2 and abs(away[1] - 1) < 0.2
    assert face_height(now.faces[0].place) / face_height(before.faces[0].place) == pytest.approx(1.04, abs=0.02)
    assert "Mia, at " in place(page).get_attribute("aria-label")
    page.keyboard.press("Delete")
    assert page.locator(".person").count() == 1
    page.keyboard.press("Control+z")
    assert page.locator(".person").count() == 2
    page.keyboard.press("Control+y")
    assert page.locator(".person").count() == 1 and not page.problems
    reached = set()
    page.locator("#undo").focus()
    for _ in range(40):  # nothing on the page is out of the tabulator's reach
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className.baseVal || ''"))
    assert {"save", "grid", "canvas", "preset", "arrange", "add", "prompt", "width", "seed", "render"} <= reached


def test_the_tabulator_goes_through_everybody_and_on(start, page, friends):
    editor = start(friends)
    opened(page, editor)
    page.locator("#arrange").focus()
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.ariaLabel || ''"))
    names = [f"{told}" for k, name in ((1, "Mia"), (2, "Theo"))
             for told in (f"Another picture of {name}", f"Name of person {k}", f"Remove {name}", f"Strength of {name}")]  # fmt: skip
    assert [one for one in reached if one in names][:8] == names and "render" in reached and not page.problems
    page.locator("input[aria-label='Strength of Mia']").focus()
    page.keyboard.type("0.5")
    for name in ("Another picture of Theo", "Name of person 2"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.ariaLabel") == name
    place(page).click()
    page.click("input[aria-label='Name of person 2']")
    page.keyboard.press("Control+a")
    page.keyboard.type("Tobias")
    page.keyboard.press("Control+s")
    until(page, "document.getElementById('saved').textContent === 'saved'")
    assert [(face.name, face.strength) for face in load_layout(friends).faces] == [("Mia", 0.5), ("Tobias", None)]
    for left in (1, 0):
        place(page, left).focus()
        page.keyboard.press("Delete")
    assert page.evaluate("document.activeElement.id") == "add" and not page.problems


def test_another_picture_of_somebody(start, page, friends):
    """Also where the first is missing: chosen, or dropped on the person's row; name and place stay, its points go.

    A place that is to be filled takes a picture that is dropped on it, and its name; a face that has one does not.
    """
    document = json.loads(friends.read_text())
    document["faces"].append({"name": "person 1", "reference": "two_friends_refs/person_1.jpg",
                              "landmarks": [[58, 92], [72, 92], [65, 99], [59, 107], [71, 107]]})  # fmt: skip
    document["faces"][0] |= {"name": "Mia, whose name is longer than any box", "reference": "gone.png",
                             "reference_landmarks": [[38, 52], [74, 52], [56, 72], [42, 92], [71, 92]]}  # fmt: skip
    document["faces"][1]["reference_landmarks"] = document["faces"][0]["reference_landmarks"]
    friends.write_text(json.dumps(document))
    before = load_layout(friends)
    editor = start(friends)
    opened(page, editor)
    page.wait_for_selector("#people li:nth-child(1) small.problem")
    page.wait_for_selector("#people li:nth-child(2) small:has-text('landmarks from the layout')")
    assert "&landmarks=" in place(page, 1).locator("image").get_attribute("href")
    label = place(page).locator(".label")
    assert (
        label.text_content().endswith("…")
        and box_of(label)["width"] < box_of(place(page).locator(".frame"))["width"] + 8
    )
    with page.expect_file_chooser() as chooser:
        page.click("#people li:nth-child(1) .photo")
    chooser.value.set_files(PEOPLE / "noor.png")
    page.wait_for_selector("#people li:nth-child(1) small:has-text('face at')")
    name = page.get_by_label("Name of person 2")
    name.fill(before.faces[0].name)  # one person twice: of the second row all the same
    name.press("Enter")
    box = box_of(page.locator("#people li:nth-child(2)"))
    drop(page, [PEOPLE / "mia.png"], box["x"] + box["width"] - 4, box["y"] + box["height"] - 4)
    until(
        page, "document.querySelector('#people li:nth-child(2) .photo').title.startsWith('two_friends_refs/mia.png')", 9
    )
    name.fill(before.faces[1].name)
    name.press("Enter")
    for people, index in ((3, 2), (4, 1)):
        settled(page)
        box = box_of(place(page, index).locator(".frame"))
        drop(page, [PEOPLE / "theo.png"], box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_selector("#people li:nth-child(3) small:has-text('face at')")
        until(page, f"document.querySelectorAll('.person').length === {people}")
    page.click("#undo")
    settled(page)
    after = saved(page, friends)
    assert [face.reference for face in after.faces] == [
        f"two_friends_refs/{name}.png" for name in ("noor", "mia", "theo")
    ]
    assert [face.name for face in after.faces] == [*(face.name for face in before.faces[:2]), "theo"]
    assert after.faces[0].reference_landmarks is None
    for old, new in zip(before.faces, after.faces, strict=True):
        assert abs(old.place - new.place).max() < 0.2
    assert all("status of 422" in told for told in page.problems)  # the one that is gone


def test_a_picture_that_arrives_after_an_undo_is_its_persons(start, page, friends):
    """Also where the undo brings somebody back who stood before them; one whose person is gone is told."""
    editor, held = start(friends), []
    page.route("**/api/references", lambda route: held.append(route))
    opened(page, editor)
    shown = "[...document.querySelectorAll('#people li .photo')].map((one) => one.title.split(/[/,]/)[1]).join()"
    until(page, f"{shown} === 'mia.png,theo.png'")

    def sent(row):
        with page.expect_file_chooser() as chooser:
            page.click(f"#people li:nth-child({row}) .photo")
        chooser.value.set_files(PEOPLE / "noor.png")
        while not held:
            page.wait_for_timeout(20)
        return held.pop()

    page.get_by_label("Remove Mia").click()
    sending = sent(1)
    page.click("#undo")
    sending.continue_()
    until(page, f"{shown} === 'mia.png,noor.png'", 9)
    page.click("#undo")
    until(page, f"{shown} === 'mia.png,theo.png'", 9)
    page.click("#redo")
    until(page, f"{shown} === 'mia.png,noor.png'", 9)
    sending = sent(1)
    page.get_by_label("Remove Mia").click()
    sending.continue_()
    page.wait_for_selector("#message:has-text('noor.png: not used, the person was removed meanwhile')")
    until(page, f"{shown} === 'noor.png'", 9)
    assert not page.problems


def test_what_is_being_typed_is_saved(start, page, friends):
    editor = start(friends)
    opened(page, editor)
    page.fill("#seed", "123")
    page.keyboard.press("Control+s")
    until(page, "document.getElementById('saved').textContent === 'saved'")
    assert load_layout(friends).seed == 123
    with page.expect_response(lambda answer: "/api/save" in answer.url):
        page.evaluate("""() => {
          document.getElementById("save").click();
          const prompt = document.getElementById("prompt");
          prompt.value = "two friends, and what came while they were saved";
          prompt.dispatchEvent(new Event("input", { bubbles: true }));
        }""")
    settled(page)
    assert page.text_content("#saved") == "not saved" and not page.problems


def test_a_second_finger_moves_nothing_and_nobody_leaves_the_picture(start, page, friends):
    editor = start(friends)
    opened(page, editor)
    box = box_of(place(page))
    before = load_layout(friends).faces[0].place
    page.evaluate("""([x, y]) => {
      const send = (kind, id, x, y) => document.elementFromPoint(x, y).dispatchEvent(new PointerEvent(kind, {
        bubbles: true, cancelable: true, pointerId: id, clientX: x, clientY: y, isPrimary: id === 1 }));
      SVGElement.prototype.setPointerCapture = () => {};
      send("pointerdown", 1, x, y);
      send("pointerdown", 2, x + 20, y);
      send("pointermove", 2, x + 90, y + 60);
      send("pointerup", 2, x + 90, y + 60);
      send("pointerup", 1, x, y);
    }""", [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2])  # fmt: skip
    assert abs(saved(page, friends).faces[0].place - before).max() < 0.2
    opened(page, editor)
    box = box_of(place(page))
    drag(page, place(page), 2 - box["x"] - box["width"] / 2, 2 - box["y"] - box["height"] / 2)
    assert saved(page, friends).faces[0].place.mean(0).tolist() == pytest.approx([0, 0], abs=0.2)
    knob = box_of(page.locator(".turn"))
    assert knob["y"] > box_of(page.locator("#stage"))["y"] and not page.problems  # below, as above there is no room


def test_a_render_is_followed_from_wherever_the_page_is_opened(start, page, friends):
    """After a reload, and in another tab, which may cancel it; one that waits need not come up first."""
    editor = start(friends)
    opened(page, editor)
    render_for_long(page)
    with page.expect_response(lambda answer: "/api/save" in answer.url):
        page.keyboard.press("Control+s")
    other = page.context.new_page()
    opened(other, editor)
    until(other, "document.getElementById('steps-done').value > 2")
    assert other.is_disabled("#render")
    document = json.loads(friends.read_text())
    waiting = page.evaluate("""(document) => fetch("/api/renders", { method: "POST",
      headers: { "content-type": "application/json" }, body: JSON.stringify({ document }) }).then((one) => one.json())""", document)  # fmt: skip
    assert waiting["state"] == "waiting" and (friends.parent / "two_friends_pictures" / "002").is_dir()
    page.evaluate(
        "(id) => fetch(`/api/renders/${id}`, { method: 'DELETE', headers: { 'content-type': 'application/json' }, body: '{}' })",
        waiting["id"],
    )
    until(page, "document.getElementById('steps-done').value > 4")
    assert not (friends.parent / "two_friends_pictures" / "002").exists()
    page.reload()
    page.wait_for_selector("body[data-ready=yes]")
    until(page, "document.getElementById('steps-done').value > 6")
    page.click("#cancel")
    for one in (page, other):
        one.wait_for_selector("#progress", state="hidden", timeout=60_000)
        assert not one.is_disabled("#render")
    assert not page.problems


def test_an_editor_that_ended_says_so_on_the_page_and_leaves_no_traceback(start_program, page, friends):
    editor = start_program(friends)
    opened(page, editor)
    render_for_long(page)
    editor.process.send_signal(signal.SIGINT)
    _, err = editor.process.communicate(timeout=30)
    assert editor.process.returncode == 0 and "Traceback" not in err and "Error" not in err, err
    until(page, "document.getElementById('message').textContent.includes('no longer answers. Start it again')")
    assert page.locator("#progress").is_hidden()


def test_warnings_as_one_types_and_refusals(start, page, friends):
    editor = start(friends)
    opened(page, editor)
    settled(page)
    assert page.locator("#warnings li").count() == 0
    page.fill("#prompt", "a photo of three friends")
    page.wait_for_selector("#warnings li:has-text('speaks of 3 people, the layout places 2')")
    place(page).focus()
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    page.wait_for_selector("#warnings li:has-text('overlap by')")
    page.fill("#width", "100000000")  # while it is typed
    page.wait_for_selector("#warnings li.error:has-text('must be at most 4096')")
    page.fill("#width", "100")
    page.wait_for_selector("#warnings li.error:has-text('must be a multiple of 16')")
    assert page.is_disabled("#render")
    with page.expect_response(lambda answer: "/api/save" in answer.url) as answer:
        page.click("#save")
    assert answer.value.status == 422
    page.wait_for_selector("#message:has-text('multiple of 16')")
    page.click("#undo")
    until(page, "!document.getElementById('render').disabled")
    note = friends.parent / "note.png"
    note.write_text("no picture")
    page.set_input_files("#files", [note])
    page.wait_for_selector("#message:has-text('note.png')")
    (friends.parent / "huge.png").write_bytes(bytes(20 * 2**20 + 1))
    page.set_input_files("#files", [friends.parent / "huge.png"])
    page.wait_for_selector("#message:has-text('huge.png: larger than 20 MB')")
    assert page.locator(".person").count() == 2
    friends.write_text(friends.read_text().replace("at the beach", "in the snow"))  # somebody else edits it meanwhile
    with page.expect_response(lambda answer: "/api/save" in answer.url) as answer:
        page.click("#save")
    assert answer.value.status == 409
    page.wait_for_selector("#message:has-text('was changed on disk')")
    assert "in the snow" in friends.read_text()
    saved(page, friends)  # asked twice, it is replaced
    assert load_layout(friends).prompt == "a photo of three friends"


def test_a_name_is_shown_and_never_obeyed(start, page, friends):
    document = json.loads(friends.read_text())
    document["faces"][0]["name"] = "<img src=x onerror=alert(1)>"
    document["prompt"] = "</textarea><script>alert(1)</script> two friends"
    friends.write_text(json.dumps(document))
    page.on("dialog", lambda dialog: page.problems.append("a script ran"))
    opened(page, start(friends))
    settled(page)
    assert page.input_value("#prompt") == document["prompt"]
    assert place(page).locator("title").text_content() == document["faces"][0]["name"]
    assert place(page).locator("text").text_content().startswith("<img") and not page.problems


def test_how_much_a_face_counts(start, page, friends):
    editor = start(friends)
    opened(page, editor)
    page.get_by_label("Strength of Mia").fill("0.6")
    page.get_by_label("Strength of Mia").press("Enter")
    settled(page)
    assert saved(page, friends).faces[0].strength == 0.6 and load_layout(friends).faces[1].strength is None
    page.get_by_label("Strength of Mia").fill("9")
    page.wait_for_selector("#warnings li:has-text('must be at most 4')")
    page.get_by_label("Strength of Mia").fill("")
    page.get_by_label("Strength of Mia").press("Enter")
    settled(page)
    assert saved(page, friends).faces[0].strength is None and not page.problems


def test_arranged_by_a_preset(start, page, friends):
    opened(page, start(friends))
    page.select_option("#preset", "portrait")
    with page.expect_response(lambda answer: "/api/arrange" in answer.url):
        page.click("#arrange")
    settled(page)
    layout = saved(page, friends)
    assert layout.faces[0].place.mean(0)[0] < layout.faces[1].place.mean(0)[0] and not page.problems


def test_rendered_with_scores_and_kept(start_program, page, tmp_path):
    """Two people added to a new layout, wherever the editor puts them."""
    friends, refs = tmp_path / "two_friends.json", tmp_path / "kept"
    refs.mkdir()
    editor = start_program(friends, "--refs-root", refs)
    opened(page, editor)
    page.set_input_files("#files", [PEOPLE / "mia.png", PEOPLE / "theo.png"])
    page.wait_for_selector("#people li:nth-child(2) small:has-text('face at')")
    page.fill("#seed", "7")
    page.fill("#steps", "3")
    page.locator("#steps").blur()
    page.click("#render")
    page.wait_for_selector("#progress:not([hidden])")
    page.wait_for_selector("#history figure", timeout=120_000)
    told = page.inner_text("#history figure")
    assert "seed 7" in told and "mia" in told and "theo" in told and "score" in told
    until(page, "document.querySelector('#history img').naturalWidth === 128")
    folder = friends.parent / "two_friends_pictures" / "001"
    assert sorted(file.name for file in folder.iterdir()) == [
        "layout.json", "layout_seed7.png", "layout_seed7.verify.json",
    ]  # fmt: skip
    assert load_layout(folder / "layout.json", refs).steps == 3 and not friends.exists()
    verdict = json.loads((folder / "layout_seed7.verify.json").read_text())
    assert [face["state"] for face in verdict["faces"]] == ["good", "good"] and verdict["passed"], verdict
    page.route(
        lambda address: address.endswith("/api/renders/002"), times=1,
        handler=lambda route: route.fulfill(content_type="text/event-stream",
                                            body='data: {"state": "failed", "told": "the second picture failed"}\n\n'),
    )  # fmt: skip
    page.click("#render")
    page.wait_for_selector("#message:has-text('the second picture failed')")
    until(page, "document.querySelectorAll('#history figure').length === 2")  # what is there all the same
    render_for_long(page)
    page.wait_for_selector("#preview:not([hidden])")
    page.click("#cancel")
    page.wait_for_selector("#progress", state="hidden", timeout=60_000)
    assert page.locator("#history figure").count() == 2
    assert not (friends.parent / "two_friends_pictures" / "003").exists()
    assert editor.stop() == 0 and not page.problems
    verdict["faces"] = [face | {"like": "theo", "off": 0.31, "state": state}
                        for face, state in zip(verdict["faces"], ("perhaps swapped", "off"), strict=True)]  # fmt: skip
    verdict["extra"] = [{"box": [0, 0, 9, 9]}, {"box": [0, 0, 9, 9], "twice": "mia"}]
    (folder / "layout_seed7.verify.json").write_text(json.dumps(verdict))
    again = start_program(friends, "--refs-root", refs)
    opened(page, again)
    assert page.locator("#history figure").count() == 2
    told = page.locator("#history").inner_text()
    assert "perhaps theo" in told and "31 % of a face off its place" in told and "a second time" in told
    assert "1 face nobody asked for" in told


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_fits_a_phone_and_both_schemes(start, browser, friends, tmp_path, scheme, width):
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    opened(page, start(friends))
    page.wait_for_selector("#people li:nth-child(2) small:has-text('face at')")
    page.wait_for_selector("#people li:nth-child(1) small:has-text('face at')")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for button in page.locator("button:visible").all():
        size = box_of(button)
        assert size["height"] >= 32 and size["x"] >= 0 and size["x"] + size["width"] <= width
    ink, ground = (
        [int(part) for part in re.findall(r"\d+", page.evaluate(f"getComputedStyle(document.body).{key}"))[:3]]
        for key in ("color", "backgroundColor")
    )
    assert abs(sum(ink) - sum(ground)) > 380 and (sum(ground) < 200) == (scheme == "dark")
    page.screenshot(path=str(tmp_path / f"{scheme}-{width}.png"), full_page=True)
    context.close()
