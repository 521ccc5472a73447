"""`generate --verify`: each picture looked at as soon as it is rendered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from anyphoto_cli.config.generate import GenerateConfig
from anyphoto_cli.config.verify import VerifyConfig
from anyphoto_cli.generate.rendering import RenderResult, carry_out, plan
from anyphoto_cli.generate.verifying import Looker, Verified
from anyphoto_cli.runtime.progress import Listener, Passing


def render_judged(
    layouts: Path | str | Sequence[Path | str],
    out: Path | str,
    config: GenerateConfig | None = None,
    verify: VerifyConfig | None = None,
    *,
    annotate: bool = False,
    refs_root: Path | None = None,
    overwrite: bool = False,
    keep_going: bool = False,
    dry_run: bool = False,
    listener: Listener | None = None,
    on_verified: Callable[[Verified], None] = lambda one: None,
) -> tuple[RenderResult, list[Verified]]:
    """As `render`, with a verdict written beside each picture as in `verify_files`, also of those finished before; a
    run that is cut off has those of what it finished. on_verified: hears each. Raises as `render`, and InputError for a
    face pack without a detector before anything is rendered.
    """
    listener, done = listener or Listener(), list[Verified]()
    planned = plan(
        layouts, out, config, refs_root=refs_root, overwrite=overwrite, keep_going=keep_going, dry_run=dry_run,
        looks=True, listener=listener,
    )  # fmt: skip
    if dry_run:
        return planned.result(), done
    looker = Looker(None, verify or VerifyConfig(), planned.models.analyzer)
    asked = {task.path: task.job.layout for task in planned.tasks}

    def look(path: Path) -> None:
        done.append(looker.look(path, asked[path], annotate=annotate))
        on_verified(done[-1])

    return carry_out(planned, _Looking(listener, look)), done


class _Looking(Passing):
    """Has each picture looked at, once it has been told."""

    def __init__(self, inner: Listener, look: Callable[[Path], None]) -> None:
        super().__init__(inner)
        self._look = look

    def picture(self, path: Path, skipped: bool) -> None:
        """Passed on, then looked at."""
        super().picture(path, skipped)
        self._look(path)
