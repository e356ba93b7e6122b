"""What can be wrong with an upper that nobody uses: how each is found, said and repaired (docs/fsck.md).

| File | One hard thing |
|---|---|
| `findings.py` | The table of all that can be found; what became of each, and the exit codes. |
| `subject.py` | What is looked at: the upper, and the lowers if they can be reached. |
| `owner.py` | Who had it last, before it is taken. |
| `walking.py` | Each entry of the upper, and what is below it. |
| `marks.py` | Whiteouts, opaque marks, redirects, numbers of inodes. |
| `lazy.py` | Files whose data is in a base. |
| `work.py` | The work directory: what is left there, the index of hard links, kept times. |
| `journal.py` | The journal of an upper on a server, as the last mount has left it. |
| `records.py` | What it says against what is there: names, marks, letter case. |
"""
