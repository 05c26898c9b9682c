"""How much of what a language model does to say "fire" is a direction that its parts write straight to the output?

    pip install -e ".[analysis,hf]"
    python examples/fire_direction.py                       # the sentence model that ships, a few minutes on two CPU cores
    python examples/fire_direction.py --model gpt2          # or a folder of save_pretrained: any GPT-2, its own tokenizer

Every writer to the residual stream (embeddings, each attention, each MLP) is split into what it says for a word and the rest: the
projection on the word's unembedding rows, read through the final norm's gain; this is the same as splitting each of its output weights. The
final norm is given its own copy of both, so that either can be taken away on the direct path alone, or on all paths. The split is proved to
change nothing; tables are refused otherwise. Taken away means projected out (`zero`), or its mean over other texts in its place (`mean`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from analysis.extras import needed
from analysis.standing import Standing
from examples.fire.figure import save_figure
from examples.fire.language import Language, language
from examples.fire.results import ANOTHER, CONTROLLED, FILLED, RANDOM, SHARES, Results, Row, other_words, study_word
from examples.fire.study import Study
from rewrite import trace
from rewrite.save import write_whole

FILLS = {"zero": "Projected out", "mean": "Replaced by its mean over other texts"}
NAMES = {"direct path": "{}, direct path", "all paths": "{}, all paths", "rest": "all but {}, direct path", "whole": "all, all paths",
         "all but direct path": "all but ({}, direct path)"}  # fmt: skip


def number(row: Row | None) -> str:
    """A value and its interval."""
    return "-" if row is None else f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def shown(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of text."""
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for head in heads:
        made.add_column(head)
    for row in rows:
        made.add_row(*row)
    return made


def everything_table(results: Results, filled: str) -> Table:
    """What is left with directions taken out of everything that writes to the stream."""
    word, lines = results.subject.word, [("nothing", {"edit": "none"})]
    for direction, edits in ((word, (*CONTROLLED, "whole", "all but direct path")), (RANDOM, CONTROLLED), (ANOTHER, CONTROLLED)):
        lines += [
            (NAMES[edit].format(direction), {"writers": "everything", "edit": edit, "direction": direction, "filled": filled})
            for edit in edits
        ]
    measures = (("accuracy", word), ("log-probability", word), ("accuracy", "others"), ("says it", "others"))
    rows = [(name, *(number(results.get(measure, texts, **what)) for measure, texts in measures)) for name, what in lines]
    heads = ("taken out of everything", f"{word}: accuracy", f"{word}: log-probability (nats)", "others: accuracy", f"others: says {word}")
    return shown(f"{FILLS[filled]}: what is left, where the next word is {word} and where it is another", heads, rows)


def writers_table(results: Results, filled: str) -> Table:
    """By group of writers: accuracy on the word's texts under each edit."""
    word, edits, rows = results.subject.word, ("direct path", "all paths", "rest", "whole", "all but direct path"), []
    for group in groups(results):
        what = {"writers": group, "direction": word, "filled": filled}
        rows.append((group, *(number(results.get("accuracy", word, edit=edit, **what)) for edit in edits)))
    title = f"{FILLS[filled]}: accuracy where the next word is {word}, by what is taken out of whom"
    return shown(title, ("writers", *(NAMES[edit].format(word) for edit in edits)), rows)


def shares_table(results: Results, filled: str) -> Table:
    """By group of writers: the shares that the linear claim explains."""
    columns, rows = [(name, unit) for unit in ("accuracy", "log-probability") for name in SHARES], []
    for group in groups(results):
        found = [
            results.get(f"{name} ({unit})", results.subject.word, writers=group, filled=filled, direction=results.subject.word)
            for name, unit in columns
        ]
        rows.append((group, *("-" if row is None else percents(row) for row in found)))
    heads = ("writers", *(f"{name}, {'nats' if unit == 'log-probability' else unit}" for name, unit in columns))
    title = f"{FILLS[filled]}: shares of what the writers do for {results.subject.word}; - where too little is lost to divide by"
    return shown(title, heads, rows)


def percents(row: Row) -> str:
    """A share and its interval."""
    return f"{row['value']:.0%} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"


def groups(results: Results) -> list[str]:
    """The groups of writers, in order."""
    return list(dict.fromkeys(row["writers"] for row in results.rows if row["writers"]))


def conclusion(results: Results) -> str:
    """What the figures say, in words that follow from them."""
    word, lines = results.subject.word, []
    for filled in FILLED:
        cases = [(word, "direct path"), (word, "all paths"), (RANDOM, "direct path"), (ANOTHER, "direct path")]
        own, others = ([percent(results, texts, "none", "", "")] for texts in (word, "others"))
        for direction, edit in cases:
            own.append(percent(results, word, edit, direction, filled))
            others.append(percent(results, "others", edit, direction, filled))
        lines.append(
            f"{FILLS[filled]}: where the next word is {word} the model says so in {own[0]} of texts, without the direction on the direct "
            f"path in {own[1]}, on all paths in {own[2]}, without vectors as long in random directions in {own[3]}, without "
            f"another word's in {own[4]}; where it is another, it is right in {', '.join(others)}."
        )
    for group in ("all attention", "all MLPs"):
        both = [results.get(f"{name} (log-probability)", word, writers=group, filled="mean") for name in ("needed", "enough")]
        lines.append(f"Of the nats that {group} earn where the next word is {word}, {judged(*both)}.")
    return "\n".join(lines)


def percent(results: Results, texts: str, edit: str, direction: str, filled: str) -> str:
    """An accuracy under an edit of everything."""
    row = results.get("accuracy", texts, edit=edit, direction=direction, filled=filled, writers="" if edit == "none" else "everything")
    return "-" if row is None else f"{row['value']:.0%}"


def judged(needed_for: Row | None, enough_for: Row | None) -> str:
    """Two shares in words: more or less than half if both intervals say so."""
    if needed_for is None or enough_for is None:
        return "no share can be given: too little is lost without them"
    rows = (needed_for, enough_for)
    texts = [percents(row) for row in rows]
    more, less = all(row["low"] > 0.5 for row in rows), all(row["high"] < 0.5 for row in rows)
    verdict = "most of it is" if more else "most of it is not" if less else "it is undecided whether most of it is"
    lost = f"{texts[0]} is lost without the direction on the direct path, {texts[1]} kept with nothing but that"
    return f"{lost}: {verdict} what the claim says"


def measured(subject: Language, seed: int, draws: int, others: int) -> tuple[Results, Study, dict[str, Standing]]:
    """All figures, the study of the word, and the verdict on each word's program."""
    longest = max(subject.texts, key=lambda text: len(text.ids)).ids
    program = trace(subject.model, input_ids=torch.tensor([longest, longest[::-1]]))
    results, study = Results(subject, seed), Study(program, subject.word, subject)
    study_word(study, results, draws)
    return results, study, {subject.word: study.standing, **other_words(program, results, others)}


def save(results: Results, verdicts: dict[str, Standing], out: Path) -> list[Path]:
    """The files that were written: the long table, and the figure twice."""
    out.mkdir(parents=True, exist_ok=True)
    frame = needed("pandas").DataFrame(results.rows)
    head = [f"{results.subject.name}; {results.subject.note}", *(f"{word}: {verdict}" for word, verdict in verdicts.items())]
    text = "".join(f"# {line}\n" for line in head) + frame.to_csv(index=False, float_format="%.6g")
    table = out / "fire_direction.csv"
    write_whole(table.resolve(), lambda partial: partial.write_text(text, encoding="utf-8"))
    return [table, *save_figure(results, out)]


def main(arguments: list[str] | None = None) -> tuple[Results, Study]:
    """Prints tables under the verdicts of the rewrites, writes the files, and says what follows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a GPT-2 on a hub, or a folder; the sentence model if left out")
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder for the table and the figure")
    parser.add_argument("--sentences", type=int, default=200, help="texts of the word, from the grammar")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--draws", type=int, default=10, help="random directions")
    parser.add_argument("--others", type=int, default=5, help="other words whose directions are tried")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, width=max(Console().width, 120))  # piped, a console is 80 wide
    subject = language(options.model, options.sentences, options.seed)
    console.print(f"{subject.name}: {subject.note}; seed {options.seed}, {options.draws} random directions, 95 % intervals", soft_wrap=True)
    results, study, verdicts = measured(subject, options.seed, options.draws, options.others)
    for word, verdict in verdicts.items():
        console.print(f"{word}: {verdict}", soft_wrap=True)
    for table in (make(results, filled) for filled in FILLED for make in (everything_table, writers_table, shares_table)):
        console.print(f"\n{verdicts[subject.word]}", table, sep="\n", soft_wrap=True)
    console.print("\n" + conclusion(results), soft_wrap=True)
    for path in save(results, verdicts, options.out):
        console.print(f"wrote {path}", soft_wrap=True)
    return results, study


if __name__ == "__main__":
    main()
