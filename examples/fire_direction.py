"""How much of what a language model does to say "fire" is a direction that its parts write straight to the output?

    pip install -e ".[analysis,hf]"
    python examples/fire_direction.py                       # the sentence model that ships, a few minutes on two CPU cores
    python examples/fire_direction.py --model gpt2          # or a folder of save_pretrained: any GPT-2, its own tokenizer

Every writer to the residual stream (embeddings, each attention, each MLP) is split into what it says for a word and the rest: the projection
on the word's unembedding rows, read through the final norm's gain; this is the same as splitting each of its output weights. The final norm
is given its own copy of both, so that either can be taken away on the direct path alone, or on all paths. The split is proved to change
nothing; tables are refused otherwise. Taken away means: its mean over other sentences stands in its place, or (`zero`) nothing does.
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
from examples.fire.results import Results, Row, other_words, study_word
from examples.fire.study import Study
from rewrite import Program, trace
from rewrite.save import write_whole

DRAWS = 10  # of random directions


def number(row: Row | None) -> str:
    """A value and its interval."""
    return "-" if row is None else f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def shown(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of text."""
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for head in heads:
        made.add_column(head, no_wrap=True)
    for row in rows:
        made.add_row(*row)
    return made


def accuracy_table(results: Results) -> Table:
    """What is left of the accuracy with the word's direction taken out of everything, against its controls."""
    word, rows = results.subject.word, []
    tried = {row["direction"]: None for row in results.rows if row["writers"] == "everything" and row["edit"] == "direct path"}
    lines = [("nothing", {"edit": "none"})]
    for direction in tried:
        for edit in ("direct path", "all paths"):
            for filled in ("mean", "zero"):
                where = {"writers": "everything", "edit": edit, "direction": direction, "filled": filled}
                lines.append((f"{direction}, {edit}" + (", by zero" if filled == "zero" else ""), where))
    for name, where in lines:
        cells = [results.get(m, t, **where) for m, t in (("accuracy", word), ("log-probability", word), ("accuracy", "others"))]
        if cells[0]:
            rows.append((name, *map(number, cells)))
    heads = ("taken out of everything", f"accuracy, {word}", f"log-probability, {word} (nats)", "accuracy, others")
    return shown(f"What is left when a direction is taken out of everything that writes to the stream ({counts(results)})", heads, rows)


def counts(results: Results) -> str:
    """How many texts there are of the word, and of others."""
    own = int(results.of[results.subject.word].sum())
    return f"{own} texts whose next word is {results.subject.word}, {len(results.subject.texts) - own} others"


def writers_table(results: Results) -> Table:
    """By group of writers: accuracy on the word's texts under each edit."""
    word, rows = results.subject.word, []
    edits = ("direct path", "all paths", "whole", "all but direct path")
    for group in groups(results):
        what = {"writers": group, "direction": word, "filled": "mean"}
        rows.append((group, *(number(results.get("accuracy", word, edit=edit, **what)) for edit in edits)))
    heads = ("writers", "direction: direct path", "direction: all paths", "all they write", "all but the direction's direct path")
    return shown(f"Accuracy on the texts of {word}, by what is taken away from whom", heads, rows)


def shares_table(results: Results, unit: str) -> Table:
    """By group of writers: the shares that the linear claim explains."""
    rows = []
    for group in groups(results):
        cells = [results.get(f"{name} ({unit})", results.subject.word, writers=group) for name in ("direct / all paths", "needed", "enough")]
        rows.append((group, *map(number, cells)))
    heads = ("writers", "direct / all paths", "needed: direct / all they write", "enough: kept by the direct path alone")
    return shown(f"Shares of {unit}; - where nothing is lost for certain", heads, rows)


def groups(results: Results) -> list[str]:
    """The groups of writers, in order."""
    return list(dict.fromkeys(row["writers"] for row in results.rows if row["writers"]))


def conclusion(results: Results) -> str:
    """What the figures say, in words that follow from them."""
    word = results.subject.word

    def accuracy(texts: str = word, **what: str) -> str:
        row = results.get("accuracy", texts, **what)
        return "not measured" if row is None else f"{row['value']:.0%}"

    def everything(edit: str, direction: str = word) -> dict[str, str]:
        return {"writers": "everything", "edit": edit, "direction": direction, "filled": "mean"}

    random = next((r["direction"] for r in results.rows if r["direction"].startswith("random")), "")
    lines = [
        f"Where the next word is {word}, the model says so in {accuracy(edit='none')} of texts; with its direction taken out of everything on "
        f"the direct path {accuracy(**everything('direct path'))}, on all paths {accuracy(**everything('all paths'))}, with random vectors as "
        f"long {accuracy(**everything('direct path', random))}. On other texts: {accuracy('others', edit='none')}, "
        f"{accuracy('others', **everything('direct path'))}, {accuracy('others', **everything('all paths'))}."
    ]
    for group in ("all MLPs", "all attention"):
        needed_, enough = (results.get(f"{name} (accuracy)", word, writers=group) for name in ("needed", "enough"))
        lines.append(f"Of what {group} do for {word}, the direction on the direct path is {judged('needed', needed_)} and {judged('enough', enough)}.")
    return "\n".join(lines)


def judged(name: str, row: Row | None) -> str:
    """A share in words: most or less than half if the interval says so."""
    if row is None:
        return f"{name} for an unknown share (nothing is lost for certain without them)"
    side = "more than half" if row["low"] > 0.5 else "less than half" if row["high"] < 0.5 else "half, more or less: undecided"
    return f"{name} for {row['value']:.0%} [{row['low']:.0%}, {row['high']:.0%}] ({side})"


def measured(subject: Language, seed: int, draws: int) -> tuple[Results, Program, dict[str, Standing]]:
    """All figures, the program that the word was studied on, and the verdict on each word's program."""
    longest = max(subject.texts, key=lambda text: len(text.ids)).ids
    program = trace(subject.model, input_ids=torch.tensor([longest, longest[::-1]]))
    results, study = Results(subject, seed), Study(program, subject.word, subject)
    study_word(study, results, draws)
    return results, study.program, {subject.word: study.standing, **other_words(program, results)}


def save(results: Results, verdicts: dict[str, Standing], out: Path) -> list[Path]:
    """The files that were written: the long table, and the figure twice."""
    out.mkdir(parents=True, exist_ok=True)
    frame = needed("pandas").DataFrame(results.rows)
    head = [f"{results.subject.name}; {results.subject.note}", *(f"{word}: {verdict}" for word, verdict in verdicts.items())]
    text = "".join(f"# {line}\n" for line in head) + frame.to_csv(index=False, float_format="%.6g")
    table = out / "fire_direction.csv"
    write_whole(table.resolve(), lambda partial: partial.write_text(text, encoding="utf-8"))
    return [table, *save_figure(results, out)]


def main(arguments: list[str] | None = None) -> tuple[Results, Program]:
    """Prints tables under the verdicts of the rewrites, writes the files, and says what follows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a GPT-2 on a hub, or a folder; the sentence model if left out")
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--sentences", type=int, default=200, help="texts of the word, from the grammar")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    subject = language(options.model, options.sentences, options.seed)
    console.print(f"{subject.name}: {subject.note}; seed {options.seed}, {DRAWS} random directions, 95 % intervals", soft_wrap=True)
    results, program, verdicts = measured(subject, options.seed, DRAWS)
    for word, verdict in verdicts.items():
        console.print(f"{word}: {verdict}", soft_wrap=True)
    for table in (accuracy_table(results), writers_table(results), *(shares_table(results, u) for u in ("accuracy", "log-probability"))):
        console.print(f"\n{verdicts[subject.word]}", table, sep="\n", soft_wrap=True)
    console.print("\n" + conclusion(results), soft_wrap=True)
    for path in save(results, verdicts, options.out):
        console.print(f"wrote {path}", soft_wrap=True)
    return results, program


if __name__ == "__main__":
    main()
