"""Many steps with many snapshots: memory, files and the work of a step stay as they are at the beginning."""

import json

from runs import SMALL

STEPS = 54  # of one micro-batch each
# Every loss acts from the first step on; that in ImageNet features would only make the test longer.
OBJECTIVE = "--objective=di-gan,imagenet=0,samples=64,steps=2,window=16,start=0"

# Work is counted in calls and in bytes read and written: seconds depend on what else the machine does.
WATCH = """
import json, sys
import gan_refine.refine.loop as loop
learn, calls = loop._learn, 0
def count(frame, event, argument):
    global calls
    calls += event in ("call", "c_call")
def watched(state):
    learn(state)
    if state.images in (4 * 18, 4 * 36, 4 * 54):
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        io = dict(line.split(":", 1) for line in open("/proc/self/io"))
        print(json.dumps([int(status["VmRSS"].split()[0]) / 1024, calls, int(io["rchar"]) + int(io["wchar"])]))
loop._learn = watched
sys.setprofile(count)
"""


def test_memory_files_and_work_do_not_change(pair, commands, tmp_path):
    arguments = [*pair, *SMALL, f"--kimg={4 * STEPS / 1000}", "--batch=4", "--snap=3", "--metrics=none", OBJECTIVE]
    ended = commands.run(*arguments, f"--outdir={tmp_path}", before=WATCH)
    assert ended.code == 0, ended.stderr
    early, middle, late = (json.loads(line) for line in ended.stdout.splitlines()[:3])
    assert late[0] - early[0] < 6, f"resident MiB went from {early[0]:.1f} to {late[0]:.1f}"
    for what, a, b, c in zip(("calls", "bytes"), early[1:], middle[1:], late[1:], strict=True):
        assert c - b < 1.1 * (b - a), f"{what} of 18 steps went from {b - a} to {c - b}"
    folder = tmp_path / "00000-tiny"
    assert len(list(folder.glob("checkpoint-*.pt"))) <= 3
    assert len(list(folder.glob("fakes*.png"))) <= STEPS // 6 + 2, "one picture a snapshot"
