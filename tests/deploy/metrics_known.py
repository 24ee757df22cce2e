"""Whether the dashboard and the rules of a folder name only metrics and labels that an exposition has.

    metrics_known.py EXPOSITION FOLDER
"""

import json
import pathlib
import re
import sys

# A scrape's own.
SCRAPED = {"instance", "job", "le"}


def told(text):
    """Sample name to the labels it is seen with."""
    samples = {}
    for line in text.splitlines():
        if match := re.match(r"([a-z_]+)(?:\{(.*)\})? ", line):
            labels = re.findall(r'([a-z_]+)="', match[2] or "")
            samples.setdefault(match[1], set()).update(labels)
    return samples


def expressions(folder):
    """Where, and what is asked."""
    dashboard = json.loads((folder / "grafana-dashboard.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids)), "two panels have one id"
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource", "no variable for the data source"
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}", panel["title"]
            yield panel["title"], target["expr"] + " " + " ".join(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    rules = (folder / "alerts.yaml").read_text()
    for rule in rules.split("- alert: ")[1:]:
        name, text = rule.split("\n", 1)
        for key in ("severity:", "summary:", "description:"):
            assert key in text, f"{name} has no {key}"
        yield name, text.split("expr:", 1)[1].split("labels:", 1)[0]


def faults(folder, samples):
    seen = set()
    for where, text in expressions(folder):
        names = set(re.findall(r"\bpostern_[a-z_]+", text))
        if not names:
            yield f"{where}: asks no metric of ours"
        seen |= names
        known = set(SCRAPED)
        for name in names:
            if name not in samples:
                yield f"{where}: {name} is not told"
            known |= samples.get(name, set())
        asked = re.findall(r'(\w+)\s*(?:=~|!=|!~|=)\s*"', text)
        for group in re.findall(r"\bby \(([^)]*)\)", text):
            asked += [label.strip() for label in group.split(",")]
        for label in sorted(set(asked) - known):
            yield f"{where}: no label {label}"
    print(f"{len(seen)} metrics are asked for")


def main():
    samples = told(pathlib.Path(sys.argv[1]).read_text())
    assert samples, "no metrics"
    found = list(faults(pathlib.Path(sys.argv[2]), samples))
    print("\n".join(found))
    sys.exit(bool(found))


main()
