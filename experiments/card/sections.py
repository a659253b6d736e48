"""The sections of a card, each a list of paragraphs; every number is one of the set's files."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from datamodules.synthetic.layout import CONTACT_SHEET, TRAINED_ON
from experiments.annotation.ceiling import named
from experiments.card.facts import Facts
from experiments.card.front_matter import OWN
from experiments.card.origin import training_sources
from experiments.card.remake import command
from experiments.card.snippets import block, checksums, loading
from experiments.card.tables import (
    acceptance_table,
    agreement_table,
    columns_table,
    counts_table,
    facts_table,
    share,
    untold,
)

GB = 1e9
NO_AUDIT = (
    "No privacy audit was run: do not release images of a generator trained on private photographs before one. A "
    "generator can reproduce photographs that it was trained on."
)


def opening(facts: Facts, title: str, version: str, licence: str | None) -> list[str]:
    """Title, what it is in two sentences, the contact sheet, and its vital facts."""
    size, annotated = facts.image_size, facts.annotations is not None
    beside = ", and annotations by software beside it" if annotated else ""
    told = {
        "version": f"{version}{f', {facts.made}' if facts.made else ''}",
        "images": f"{facts.num_images:,}, {size} x {size} pixels, {facts.recipe['image']['format'].upper()}",
        "files": f"{facts.num_shards:,} Parquet shards, {gigabytes(facts.num_bytes)}",
        "set": f"`{facts.id_prefix}`, what the id of every image begins with",
        "licence": licence_words(licence),
    }
    intro = (
        f"{facts.num_images:,} synthetic colour photographs of the fundus of the eye, drawn by a diffusion model that "
        f"was told for each image which findings to show. With each image comes this condition{beside}. No camera took "
        "these images; what that protects and what not is said under [Privacy](#privacy). They are not for diagnosis."
    )
    caption = (
        f"![Images by condition]({CONTACT_SHEET})",
        "A row a condition, with the number of images that have it. Of each the first images of a few row groups are "
        "shown, none chosen by its looks.",
    )
    return [f"# {title}", intro, *caption, facts_table(told)]


def gigabytes(num_bytes: int) -> str:
    """A size for people."""
    return f"{num_bytes / GB:.3g} GB" if num_bytes >= GB / 10 else f"{num_bytes / 1e6:.3g} MB"


def licence_words(licence: str | None) -> str:
    """The licence, or that there is none."""
    if licence is None:
        return "none chosen yet; until there is one, nobody is permitted to use the set"
    return licence.removeprefix(OWN).strip()


def making(facts: Facts) -> list[str]:
    """What made it, and how to make it again."""
    made = dict(facts.generator)
    if facts.code:
        made["made by"] = facts.code
    parts = ["## How it was made", "The generator:", facts_table(made), "The images:", facts_table(facts.sampling)]
    again = "Image *i* follows from the generator's weights, row *i* of `plan.parquet` and these settings alone."
    if facts.recipe.get("filter"):
        again += " `<runs>` are the classifiers that the filter asked."
    more = "[recipe.json](recipe.json) holds all of it. The command that makes the set again:"
    return [*parts, f"{again} {more}", block(command(facts.recipe), "bash")]


def contents(facts: Facts) -> list[str]:
    """Counts by finding and level, and how many images a filter accepted."""
    parts = [
        "## What is in it",
        "Images by finding. The *condition* is what the generator was told"
        + (", the *annotation* what software saw in the finished image." if facts.annotations else ".")
        + " Percentages are of all images.",
        counts_table(facts.conditions, facts.annotated, facts.num_images),
    ]
    unknown = untold(facts.conditions)
    if unknown:
        names = ", ".join(f"`{name}`" for name in unknown)
        parts.append(f"The generator was never told {names}: what the images show of these follows no plan.")
    return [*parts, *filtering(facts)]


def filtering(facts: Facts) -> list[str]:
    """What the filter did; that there was none."""
    found = facts.acceptance
    if found is None:
        return ["No filter was used: every image is the first that was drawn for its condition."]
    agreed = ", ".join(f"`{name}`" for name in (facts.recipe["filter"] or {}).get("findings") or ())
    asked = f" Image and condition had to agree in {agreed}." if agreed else ""
    at_once, in_the_end = (share(number, found.num_images) for number in (found.num_at_once, found.num_accepted))
    return [
        f"An image that the filter refused was drawn again with another seed, up to a limit.{asked} It accepted "
        f"{in_the_end} of the images in the end, {at_once} at the first attempt; {found.num_drawn:,} were drawn for "
        f"that, {found.num_drawn / found.num_images:.2f} an image. Images that it never accepted are in the set all "
        "the same, with `accepted` false. A filter leaves what its own classifiers see most easily: do not judge "
        "it, or a classifier trained like its own, by these images.",
        acceptance_table(found.levels),
        "What is hard to see is refused most: accepted images alone have other proportions than the plan.",
    ]


def consistency(facts: Facts) -> list[str]:
    """How far conditions and annotations agree."""
    head = "## Do the images show what was asked for?"
    if facts.half_annotated:
        return [head, "Annotating the images has been begun and is not finished: nothing can be said yet."]
    if facts.annotations is None:
        return [head, "It was not measured: the images are not annotated. Treat the conditions as wishes."]
    parts = [head, annotators(facts.annotations.told)]
    table = agreement_table(facts.consistency or {})
    if not table:
        return [*parts, "How far annotations and conditions agree was not measured."]
    parts += [
        "Conditions against annotations, 95 % intervals in brackets; the last column is what the annotators reach on "
        f"the test images of their own training, of {tested_on(facts.consistency or {})}. This is agreement between "
        "two pieces of software: an annotator that errs as the generator does agrees with it.",
        table,
        "\n".join(f"- {note}" for note in facts.consistency.get("notes") or ()),
        "![AUROC of every finding](consistency.png)" if facts.has_consistency_figure else "",
        "What each figure is, and why some are undefined: [consistency.md](consistency.md)."
        if facts.has_consistency_page
        else "",
    ]
    return [part for part in parts if part]


def tested_on(consistency: Mapping[str, Any]) -> str:
    """Where the annotators' own test images are from."""
    names = (consistency.get("real") or {}).get("sources") or ()
    return named(names)


def annotators(told: Mapping[str, Any]) -> str:
    """Who annotated, as far as annotation.json tells."""
    said = []
    for one in told.get("annotators") or ():
        one = one if isinstance(one, Mapping) else {"run": one}
        weights = f" (weights `{one['weights']}`)" if one.get("weights") else ""
        said.append(f"{PurePath(str(one.get('run') or 'a classifier')).name}{weights}")
    who = "; ".join(said) or "not told"
    return (
        f"The annotations are by software, and no person has looked at them. Annotators: {who}. Thresholds, versions "
        "and checksums are in [annotations/annotation.json](annotations/annotation.json)."
    )


def columns(facts: Facts) -> list[str]:
    """What is in the files, and how they are loaded."""
    annotated, filtered = facts.annotations is not None, facts.acceptance is not None
    more = "`plan.parquet` has `index`, `seed` and the conditions of all images in one file."
    return ["## Columns", columns_table(annotated, filtered), more, "## Loading", *loading(annotated)]


def use(licence: str | None, facts: Facts) -> list[str]:
    """Licence and intended use."""
    sources = training_sources(facts.recipe["generator"].get("config") or {})
    terms = sorted({source.licence for source in sources} - {""})
    theirs = (
        f" The generator learnt from data on these terms, which may bind what is made of it: {'; '.join(terms)}."
        if terms
        else ""
    )
    return [
        "## Licence and intended use",
        f"Licence: {licence_words(licence)}.{theirs}",
        "For research: pretraining and testing of software for fundus photographs, teaching, work on synthetic data. "
        "**Not for diagnosis, nor for any decision on a person's care.** Software trained on these images has to be "
        "tested on photographs of patients before anything is said of what it can do.",
    ]


def limits(facts: Facts) -> list[str]:
    """What is known to be wrong with it, and what is not known."""
    size = facts.image_size
    points = [
        "Conditions are what the generator was told, not what is in the image. It may have drawn something else.",
        "How often findings occur, and together, follows the plan, not a population.",
        f"Images have {size} x {size} pixels. What is smaller than a pixel at that size, as small microaneurysms and "
        "thin vessels can be, is not in them. Whether fine structures are drawn as they are in eyes was not measured "
        "for this card.",
        "The generator can show no eye, camera or disease that its training data lack, and repeats their biases. Each "
        "image stands alone: there are no two eyes of a person, and no course of a disease.",
    ]
    if facts.annotations is not None:
        points.append(
            "Annotations are by software and have its errors; `advice` is written by rules from the annotations, is "
            "not medical advice, and is about no person."
        )
    if facts.recipe["image"]["format"] == "jpeg" or facts.recipe["image"].get("quality") is not None:
        points.append("The files are compressed with loss, which leaves traces that photographs may not have.")
    return ["## Known limits", "\n".join(f"- {point}" for point in points)]


def privacy(facts: Facts) -> list[str]:
    """The verdict of an audit, or that there was none; whose hashes are in the folder."""
    parts = ["## Privacy"]
    if facts.privacy is None:
        parts.append(NO_AUDIT)
    elif verdict := facts.privacy.get("verdict"):
        parts.append(f"Verdict of the audit ([privacy.json](privacy.json) has its figures): {verdict}")
    else:
        parts.append("An audit left [privacy.json](privacy.json), which holds no verdict: read it before any release.")
    if facts.has_patients:
        parts.append(
            f"[{TRAINED_ON}]({TRAINED_ON}) holds hashes of the names of the patients whose photographs trained the "
            "generator, so that tests on them can be refused. Who knows a name can see whether it is among them: leave "
            "the file out where names or numbers of private patients could be guessed."
        )
    return parts


def verification(facts: Facts) -> list[str]:
    """How to see that the files are whole."""
    return [
        "## Verification",
        "[manifest.json](manifest.json) has the SHA-256 of every shard; its own is",
        block(facts.manifest_sha256, "text"),
        "Every byte is read by:",
        block(checksums(annotated="files" in (facts.annotations.told if facts.annotations else {}))),
    ]
