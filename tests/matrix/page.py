"""The matrix in docs/compatibility.md, between `<!-- matrix -->` and `<!-- /matrix -->`: read, merged with a run, compared, written."""

import os
import re

PAGE = os.path.join(os.path.dirname(__file__), "../../docs/compatibility.md")
OPEN, CLOSE = "<!-- matrix -->", "<!-- /matrix -->"
WORKS, UNSUPPORTED, FAILED = "works", "unsupported", "FAILED"


def between():
    with open(PAGE, encoding="utf-8") as page:
        whole = page.read()
    head, rest = whole.split(OPEN + "\n", 1)
    inside, tail = rest.split(CLOSE, 1)
    return head, inside, tail


def read():
    """({client: version}, {(client, job): (state, note)}) as the page has it."""
    versions, cells, notes, clients = {}, {}, {}, []
    lines = between()[1].splitlines()
    for line in lines:
        if found := re.fullmatch(r"(\d+)\. (.*)", line):
            notes[found[1]] = found[2]
    for line in lines:
        row = [part.strip() for part in line.strip("|").split("|")]
        if not line.startswith("|") or row[0] == "--":
            continue
        if row[:2] == ["client", "version"]:
            clients = None
        elif row[0] == "job":
            clients = [name.strip("`") for name in row[1:]]
        elif clients is None:
            versions[row[0].strip("`")] = row[1]
        else:
            for client, cell in zip(clients, row[1:], strict=True):
                if found := re.fullmatch(r"(\w+)(?: \((\d+)\))?", cell):
                    cells[client, row[0].strip("`")] = (found[1], notes[found[2]] if found[2] else "")
    return versions, cells


def render(versions, cells, jobs):
    """Clients in the order of their names, jobs in the driver's; `-` where nothing was tried."""
    clients, notes = sorted(versions), []

    def cell(client, job):
        state, note = cells.get((client, job), ("-", ""))
        if not note:
            return state
        if note not in notes:
            notes.append(note)
        return f"{state} ({notes.index(note) + 1})"

    lines = ["| client | version |", "|--|--|"]
    lines += [f"| `{client}` | {versions[client]} |" for client in clients]
    lines += ["", "| job | " + " | ".join(f"`{client}`" for client in clients) + " |", "|--|" + "--|" * len(clients)]
    lines += [f"| `{job}` | " + " | ".join(cell(client, job) for client in clients) + " |" for job in jobs]
    lines += [""] + [f"{i}. {note}" for i, note in enumerate(notes, 1)]
    return "\n".join(lines).rstrip() + "\n"


def write(versions, cells, jobs):
    """Puts a run into the page; what it did not try stays."""
    head, _, tail = between()
    old_versions, old_cells = read()
    text = render({**old_versions, **versions}, {**old_cells, **cells}, jobs)
    with open(PAGE, "w", encoding="utf-8") as page:
        page.write(head + OPEN + "\n" + text + CLOSE + tail)


def differences(cells, clients, jobs):
    """Where a run says otherwise than the page, and pairs of all clients and jobs that the page does not have, a line each."""
    old = read()[1]
    lines = [f"{client} {job}: the page says {' '.join(old.get(key, ('nothing',))).strip()}, the run {' '.join(now).strip()}"
             for key, now in sorted(cells.items()) for client, job in [key] if old.get(key) != now]
    return lines + [f"{client} {job}: not in the page" for client in clients for job in jobs if (client, job) not in old | cells]
