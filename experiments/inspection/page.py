"""The page that shows what a dataset holds: one file, no address in it is fetched, every text of the data escaped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.copies import Copies
from datamodules.findings import FINDINGS
from datamodules.manifest import SPLITS, Manifest
from experiments.inspection.markup import Html, element, join, link, many, table
from experiments.inspection.pictures import OUTLINES, SheetRow, data_uri, strip
from experiments.inspection.tables import Count, SourceFacts, by_finding, source_counts, split_counts

MOST_REJECTED = 100  # rows of the list; the file holds them all
MOST_PAIRS = 20  # pairs of duplicates that are pictured
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
body { font: 15px/1.45 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #1a1a1a; background: #fff;
  max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; }
h2 { border-bottom: 1px solid #bbb; padding-bottom: .2rem; }
table { border-collapse: collapse; margin: .6rem 0 1.2rem; } caption { text-align: left; color: #444; }
th, td { padding: .2rem .7rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd;
  overflow-wrap: break-word; } thead th { border-bottom: 2px solid #888; } th { font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.paths th, .paths td, figcaption, td a { overflow-wrap: anywhere; }
.sheet { width: 100%; } .sheet th { width: 11rem; font-weight: 400; }
.sheet td { padding-right: 0; }
img { max-width: 100%; height: auto; display: block; } figure { margin: 0 0 1rem; }
figcaption { color: #444; margin-bottom: .5rem; } code { font: 13px/1.4 ui-monospace, Consolas, "DejaVu Sans Mono",
  monospace; overflow-wrap: anywhere; } nav a { margin-right: 1rem; } .note { color: #444; }
.heed li { margin-bottom: .2rem; } .swatch { display: inline-block; width: .9em; height: .9em; border: 1px solid #000;
  margin: 0 .35em 0 1em; vertical-align: -.1em; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
@page { margin: 14mm; }
@media print { body { font-size: 10pt; margin: 0; padding: 0; max-width: none; } nav { display: none; }
  h2 { break-after: avoid; } tr, figure { break-inside: avoid; } thead { display: table-header-group; }
  #images { break-before: page; }
  .swatch { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


@dataclass(frozen=True)
class Sheet:
    """Rows of images, the pictures of each row uint8 [n, T, T, 3], and the masks' levels if they are outlined."""

    rows: Sequence[SheetRow]
    pictures: Sequence[np.ndarray]
    levels: Sequence[str] = ()


@dataclass(frozen=True)
class Inspection:
    """All that the page shows.

    Attributes:
        manifest: the images in use, with their splits.
        seen: those of them that pictures and pairs are of: all, or of a stream the ones that are decoded.
        rejected: pairs of path and reason.
        copies: duplicates among `seen`; None if nobody looked for them, and `why_no_pairs`.
        pair_pictures: uint8 [2, T, T, 3] of the first MOST_PAIRS of them.
        cooccurrence: the matrix as a picture uint8 [H, W, 3].
        origin: name -> text that says what was run on what: command, fingerprints, versions.
        warnings: what the data said in the log.
    """

    name: str
    image_size: int
    manifest: Manifest
    seen: Manifest
    rejected: Sequence[tuple[str, str]]
    facts: Sequence[SourceFacts]
    counts: Sequence[Count]
    copies: Copies | None
    why_no_pairs: str
    pair_pictures: Sequence[np.ndarray]
    sheets: Sequence[Sheet]
    cooccurrence: np.ndarray
    origin: Mapping[str, str]
    warnings: Sequence[str] = ()


def page(found: Inspection) -> str:
    """The page as text."""
    title = f"{found.name} at {found.image_size} px"
    parts = {
        "heed": ("What to heed", heed(found)),
        "sources": ("Sources", sources(found)),
        "published": ("Published counts", published(found.facts)),
        "counts": ("Findings", findings(found.counts)),
        "cooccurrence": ("Findings together", together(found.cooccurrence)),
        "rejected": ("Rejected files", rejected(found.rejected)),
        "duplicates": ("Duplicates", duplicates(found)),
        "images": ("Images", join(map(sheet, found.sheets))),
        "origin": ("What was run", origin(found.origin)),
    }
    navigation = element("nav", *(element("a", name, href=f"#{key}") for key, (name, _) in parts.items()))
    sections = (element("section", element("h2", name), body, id=key) for key, (name, body) in parts.items())
    head = element(
        "head", element("meta", charset="utf-8"), element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"Data: {title}"), element("style", Html(STYLE)),
    )  # fmt: skip
    note = "This page shows images of the dataset: treat it as you treat the data."
    body = element("body", element("h1", title), element("p", note, class_="note"), navigation, *sections)
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def heed(found: Inspection) -> Html:
    """What to know before training: empty splits, rejected files, duplicates, other counts than published."""
    points = [
        f"The {split} split is empty." for split, (images, _) in split_counts(found.manifest).items() if not images
    ]
    if found.rejected:
        points.append(f"Rejected: {many(len(found.rejected), 'file')}. Training stops at them unless it is told "
                      f"data.max_rejected={len(found.rejected)}.")  # fmt: skip
    crossing = sum(pair.crosses_splits for pair in found.copies.pairs) if found.copies else 0
    if crossing:
        points.append(
            f"Duplicates in two splits: {many(crossing, 'pair')}. A model is tested on what it was trained on, unless "
            "it is told data.duplicates=drop."
        )
    contradicting = sum(bool(pair.contradicts) for pair in found.copies.pairs) if found.copies else 0
    if contradicting:
        points.append(f"Copies whose labels contradict each other: {many(contradicting, 'pair')}; duplicates.csv says "
                      "in which findings.")  # fmt: skip
    if found.copies is None:
        points.append(f"Nobody looked for duplicates: {found.why_no_pairs}.")
    if len(found.seen) < len(found.manifest):
        points.append(f"Pictures and duplicates are of {len(found.seen):,} of {len(found.manifest):,} images: the "
                      "others are streamed, and were not looked at.")  # fmt: skip
    points += [f"{fact.title or fact.name}: other counts than published." for fact in found.facts if fact.differences]
    points += [f"From the log: {warning}." for warning in found.warnings]
    return element("ul", *(element("li", point) for point in points), class_="heed") if points else _said("Nothing.")


def sources(found: Inspection) -> Html:
    """Where the data come from, and how many images and patients each split and each source has."""
    whole = (len(found.manifest), found.manifest.num_patients)
    splits = split_counts(found.manifest) | {"all": whole}
    by_split = table("Images and patients in use", ("split", "images", "patients"),
                     ((name, *numbers) for name, numbers in splits.items()))  # fmt: skip
    counted = source_counts(found.manifest)
    by_source = table(
        "Images in use by source", ("source", *SPLITS, "all", "patients", "findings that are known"),
        ((c.source, *c.images.values(), sum(c.images.values()), c.patients, ", ".join(c.known)) for c in counted),
    )  # fmt: skip
    terms = [(f.name, f.title, f.licence, link(f.address), f.trap) for f in found.facts if f.licence or f.address]
    silent = [f.name for f in found.facts if not (f.licence or f.address)]
    parts = [by_split, by_source]
    if terms:
        header = ("source", "title", "licence", "address", "trap that is seen to")
        parts.append(table("What the sources say of themselves", header, terms))
    if silent:
        parts.append(_said(f"Licence and address are not on record: {', '.join(silent)}."))
    return join(parts)


def published(facts: Sequence[SourceFacts]) -> Html:
    """Where the index has other counts than the authors, or those who counted, give."""
    rows = [
        (fact.title or fact.name, key, here, there, f"{here - there:+,}")
        for fact in facts
        for key, (here, there) in fact.differences.items()
    ]
    alike = [f"{fact.title or fact.name} ({fact.num_published} counts)" for fact in facts
             if fact.num_published and not fact.differences]  # fmt: skip
    silent = [fact.title or fact.name for fact in facts if not fact.num_published]
    parts = []
    if rows:
        caption = "Counts of the index, before any file is rejected, that differ from the published ones"
        parts.append(table(caption, ("source", "count", "found", "published", "difference"), rows, num_heads=2))
    if alike:
        parts.append(_said(f"As published: {', '.join(alike)}."))
    if silent:
        parts.append(_said(f"No published counts to compare with: {', '.join(silent)}."))
    return join(parts)


def findings(counts: Sequence[Count]) -> Html:
    """Images of each level by split, and patients over all; findings that nobody annotated in a line below."""
    patients: dict[tuple[str, str], int] = {}
    for count in counts:  # a patient has one split, so that patients may be added
        patients[count.finding, count.name] = patients.get((count.finding, count.name), 0) + count.patients
    rows, unknown, nested = [], [], by_finding(counts)
    for finding in FINDINGS:
        levels = {name: [split[key] for key in SPLITS] for name, split in nested[finding.name].items()}
        if not any(map(any, (levels[name] for name in finding.levels))):
            unknown.append(finding.title)
            continue
        for name, images in levels.items():
            if name != "unknown" or any(images):
                rows.append((finding.title, name, *images, sum(images), patients[finding.name, name]))
    header = ("finding", "level", *SPLITS, "all", "patients")
    parts = [table("Images of each level; the last column counts their patients", header, rows, num_heads=2)]
    if unknown:
        parts.append(_said(f"Unknown in every image: {', '.join(unknown)}."))
    return join(parts if rows else parts[1:])


def together(picture: np.ndarray) -> Html:
    """The matrix of findings."""
    said = ("Over the images in which both findings are known. Below each percentage is the number of images that it "
            "is a percentage of; a grey cell has none.")  # fmt: skip
    return _figure(picture, said, "Matrix: share of images with one finding among those with another", lossless=True)


def rejected(pairs: Sequence[tuple[str, str]]) -> Html:
    """The files that are not used, and why."""
    if not pairs:
        return _said("None.")
    rest = len(pairs) - MOST_REJECTED
    shown = table(f"Not used: {many(len(pairs), 'file')}", ("path", "reason"), pairs[:MOST_REJECTED], class_="paths")
    return join((shown, _said(f"… and {rest:,} more: see rejected.csv."))) if rest > 0 else shown


def duplicates(found: Inspection) -> Html:
    """How many pairs show the same photograph, and the first of them as pictures."""
    if found.copies is None:
        return _said(f"Nobody looked for them: {found.why_no_pairs}.")
    pairs = found.copies.pairs
    if not pairs:
        return _said("None found.")
    kinds = sorted({pair.kind for pair in pairs})
    groups = {kind: [pair for pair in pairs if pair.kind == kind] for kind in kinds} | {"all": pairs}
    rows = [
        (kind, len(group), sum(p.crosses_splits for p in group), sum(p.crosses_patients for p in group),
         sum(bool(p.contradicts) for p in group))
        for kind, group in groups.items()
    ]  # fmt: skip
    header = ("kind", "pairs", "in two splits", "of two patients", "labels contradict")
    ids, splits, patients = found.seen.ids, found.seen.splits, found.seen.patients
    names = found.seen.table.column("source").to_pylist()
    cards = []
    for pair, pictures in zip(pairs, found.pair_pictures, strict=False):
        sides = [f"{ids[row]} ({names[row]}, {splits[row]}, patient {patients[row]})" for row in pair[:2]]
        crossing = ", in two splits" if pair.crosses_splits else ""
        crossing += f", contradict in {', '.join(pair.contradicts)}" if pair.contradicts else ""
        said = join((element("strong", f"{pair.kind}{crossing}"), f", similarity {pair.similarity:.3f}",
                     element("br"), sides[0], element("br"), sides[1]))  # fmt: skip
        cards.append(_figure(strip(pictures), said, f"{ids[pair.first]} beside {ids[pair.second]}"))
    shown = (f"Below are {len(cards)} of them, those in two splits first; duplicates.csv has them all. Training with "
             f"data.duplicates=drop leaves out {many(len(found.copies.dropped), 'image')}.")  # fmt: skip
    return join((table("Pairs of images that show the same photograph", header, rows), _said(shown),
                 element("div", *cards, class_="pairs")))  # fmt: skip


def sheet(part: Sheet) -> Html:
    """A row of images for each level of a finding."""
    what = "With the outlines of their masks:" if part.levels else "Images of each level, drawn at random."
    legend = [
        join((element("span", class_="swatch", style=f"background: rgb{OUTLINES[number % len(OUTLINES)]}"), name))
        for number, name in enumerate(part.levels[1:])
    ]
    rows, num_columns = [], max(map(len, part.pictures))
    for row, pictures in zip(part.rows, part.pictures, strict=True):
        number = element("span", many(row.num_images, "image"), class_="note")
        head = element("th", row.title, element("br"), number, scope="row")
        image = element(
            "img", src=data_uri(strip(pictures, num_columns)), alt=f"{many(len(pictures), 'image')}: {row.title}"
        )
        rows.append(element("tr", head, element("td", image)))
    caption = element("caption", what, *legend)
    return element("table", caption, element("tbody", *rows), class_="sheet")


def origin(told: Mapping[str, str]) -> Html:
    """Command, seed, fingerprints, code and versions."""
    return table("How this page came about", ("what", "value"), ((k, element("code", v)) for k, v in told.items()))


def _figure(picture: np.ndarray, caption: str, alt: str, lossless: bool = False) -> Html:
    image = element("img", src=data_uri(picture, lossless), alt=alt)
    return element("figure", element("figcaption", caption), image)


def _said(sentence: str) -> Html:
    return element("p", sentence)
