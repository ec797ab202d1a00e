"""The pages in Chinese hold what the English ones hold: code, commands, links and figures, section by section."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from difflib import unified_diff
from functools import partial
from itertools import zip_longest
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHINESE = [path for folder in (ROOT, ROOT / "docs") for path in sorted(folder.glob("*.zh-CN.md"))]
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
UNITS = {"分钟": "minute", "小时": "hour", "秒": "second", "个百分点": "point", "个 epoch": "epoch", "倍": "times"}
FIGURE = re.compile(
    rf"(?<![\w.-])([A-Za-z-]*\d(?:[\w.,-]*\w)?)(?:\s*(%|ms|px|GFLOPs|{'|'.join([*UNITS.values(), *UNITS])}))?", re.ASCII
)
"""A number with its unit, or a name with a number in it such as YOLO11."""


def original(page: Path) -> Path:
    return page.with_name(page.name.replace(".zh-CN", ""))


def sections(text: str) -> list[tuple[str, str]]:
    """The headings of a page with what stands below them. Comments in code are left out."""
    text = FENCE.sub(lambda block: re.sub(r"[ \t]*(?<!\S)#.*$", "", block[0], flags=re.MULTILINE), text)
    parts = re.split(r"^(#+ .+)$", text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def translated(target: str, page: Path) -> str:
    """A link of an English page as the Chinese page has it: to the Chinese version where there is one."""
    chinese = re.sub(r"\.md(#.*)?$", ".zh-CN.md", target)
    return chinese if (page.parent / chinese).resolve() in CHINESE else target


def without_chinese_anchor(target: str) -> str:
    return re.sub(r"(\.zh-CN\.md)#.*", r"\1", target)


def facts(body: str, normalized: Callable[[str], str]) -> dict[str, Counter[str]]:
    """What a section tells that is the same in both languages, beside its blocks; links as `normalized` has them."""
    text = FENCE.sub("", body)
    figures = FIGURE.findall(re.sub(r"`[^`]+`|\]\([^)\s]+\)", " ", text))
    return {
        "links": Counter(map(normalized, re.findall(r"\]\(([^)\s]+)\)", text))),
        "code": Counter(" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)),
        "figures": Counter(f"{number} {UNITS.get(unit, unit)}".strip() for number, unit in figures),
    }


def differences(page: Path, english: str, chinese: str) -> list[str]:
    """What two versions of a page do not have in common, each with its section."""
    ours, theirs = sections(english), sections(chinese)
    levels = [[title.split()[0] for title, _ in found] for found in (ours, theirs)]
    if levels[0] != levels[1]:
        return [f"headings: {[title for title, _ in ours]} in English, {[title for title, _ in theirs]} in Chinese"]
    told = []
    for (title, body), (_, chinese_body) in zip(ours, theirs, strict=True):
        blocks = zip_longest(FENCE.findall(body), FENCE.findall(chinese_body), fillvalue="")
        for number, pair in enumerate(blocks, 1):
            if lines := list(unified_diff(*(block.splitlines() for block in pair), "English", "Chinese", lineterm="")):
                told.append("\n".join([f"{title}, block {number}:", *lines]))
        expected = facts(body, partial(translated, page=page))
        found = facts(chinese_body, without_chinese_anchor)
        for kind in expected:
            missing, added = expected[kind] - found[kind], found[kind] - expected[kind]
            if missing or added:
                told.append(
                    f"{title}, {kind}: missing in Chinese {sorted(missing.elements())}, "
                    f"not in English {sorted(added.elements())}"
                )
    return told


@pytest.mark.parametrize("page", CHINESE, ids=lambda page: page.stem)
def test_both_versions_hold_the_same(page: Path) -> None:
    english, chinese = (path.read_text(encoding="utf-8").splitlines() for path in (original(page), page))
    assert english.pop(2) == f"English | [简体中文]({page.name})"
    assert chinese.pop(2) == f"[English]({original(page).name}) | 简体中文"
    told = differences(original(page), "\n".join(english), "\n".join(chinese))
    assert not told, "\n\n".join([page.name, *told])


def test_readme_and_quickstart_are_translated() -> None:
    assert [page.name for page in CHINESE] == ["README.zh-CN.md", "quickstart.zh-CN.md"]


ENGLISH_PAGE = """# One study

It took 16 minutes on YOLO11, 8 % more. See [the demo](docs/quickstart.md#the-demo), [sizes](docs/search.md#depth).
Then `make demo`:

```
prunetune run study.yaml trials=40   # any key
```
"""
CHINESE_BLOCK = """```
prunetune run study.yaml trials=40   # 任何键
```
"""
CHINESE_PAGE = f"""# 跑一次

YOLO11 用了 16 分钟, 多 8%. `make demo` 见[演示](docs/quickstart.zh-CN.md#演示)和[尺寸](docs/search.md#depth):

{CHINESE_BLOCK}"""


def test_words_anchors_and_comments_may_differ() -> None:
    assert differences(ROOT / "README.md", ENGLISH_PAGE, CHINESE_PAGE) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("16 分钟", "17 分钟", "# One study, figures: missing in Chinese ['16 minute'], not in English ['17 minute']"),
        ("16 分钟", "16 小时", "# One study, figures: missing in Chinese ['16 minute'], not in English ['16 hour']"),
        ("YOLO11", "YOLO", "# One study, figures: missing in Chinese ['YOLO11'], not in English []"),
        ("`make demo`", "", "# One study, code: missing in Chinese ['make demo'], not in English []"),
        (
            "quickstart.zh-CN.md#演示",
            "quickstart.md#the-demo",
            "# One study, links: missing in Chinese ['docs/quickstart.zh-CN.md'], "
            "not in English ['docs/quickstart.md#the-demo']",
        ),
        ("trials=40", "trials=4", "-prunetune run study.yaml trials=40\n+prunetune run study.yaml trials=4"),
        (CHINESE_BLOCK, "", "# One study, block 1:"),
        ("# 跑一次", "## 跑一次", "headings: ['# One study'] in English, ['## 跑一次'] in Chinese"),
    ],
)
def test_what_differs_is_told(old: str, new: str, told: str) -> None:
    (difference,) = differences(ROOT / "README.md", ENGLISH_PAGE, CHINESE_PAGE.replace(old, new))
    assert told in difference
