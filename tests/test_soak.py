"""Many steps with many snapshots: memory, files and time a step stay as they are at the beginning."""

import json

from runs import SMALL

STEPS = 60  # of one micro-batch each

WATCH = """
import json, resource, time
import gan_refine.refine.loop as loop
learn = loop._learn
def watched(state):
    learn(state)
    if state.images in (4 * 20, 4 * 40, 4 * 60):
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        print(json.dumps([int(status["VmRSS"].split()[0]) / 1024, time.process_time()]))
loop._learn = watched
"""


def test_memory_files_and_speed_do_not_change(pair, commands, tmp_path):
    arguments = [*pair, *SMALL, f"--kimg={4 * STEPS / 1000}", "--batch=4", "--snap=3", "--metrics=none"]
    ended = commands.run(*arguments, f"--outdir={tmp_path}", before=WATCH)
    assert ended.code == 0, ended.stderr
    (early, begun), (_, middle), (late, end) = (json.loads(line) for line in ended.stdout.splitlines()[:3])
    assert late - early < 6, f"resident MiB went from {early:.1f} to {late:.1f}"
    assert end - middle < 1.5 * (middle - begun), "processor seconds of the last third against the second"
    folder = tmp_path / "00000-tiny"
    assert len(list(folder.glob("checkpoint-*.pt"))) <= 3
    assert len(list(folder.glob("fakes*.png"))) <= STEPS // 6 + 2, "one picture a snapshot"
