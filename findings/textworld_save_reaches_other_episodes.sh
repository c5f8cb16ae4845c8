#!/usr/bin/env bash
# textworld 1.7.0 (jericho 3.3.1): the command `save` of an episode writes a file, named after the game, into the working
# directory of the process, and `restore` in any other episode of that game reads it. An agent that writes both begins
# where another episode was, with its score: here a new episode is won by one command, after two that earn nothing.
#
# Both commands are answered with "Ok." and cost no move. Where the same game is played by many episodes, as by the
# group of a group-relative method, the rewards of one then depend on what another has done, and files are left behind.
# A trainer should keep interpreter commands (save, restore, restart, quit) from the game.
#
# Seen:
#   | first episode: put egg on table: score 1 of 2
#   | first episode: save: Ok.
#   | files left in the working directory: game.qzl
#   | second episode: restore: Ok.
#   | second episode: eat apple: score 2 of 2, won True
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "textworld==1.7.0" "jericho==3.3.1" "numpy==2.3.5"
"$work/venv/bin/pip" freeze | grep -E '^(textworld|jericho|numpy)=='

cat >"$work/save.py" <<'PYTHON'
import os

import textworld
from textworld import EnvInfos, GameMaker

maker = GameMaker()
room = maker.new_room("kitchen")
maker.set_player(room)
table = maker.new(type="s", name="table")
egg, apple = maker.new(type="o", name="egg"), maker.new(type="f", name="apple")
room.add(table)
maker.inventory.add(egg, apple)
maker.quests = [
    textworld.generator.Quest(win_events=[maker.new_event_using_commands(["put egg on table"])]),
    textworld.generator.Quest(win_events=[maker.new_event_using_commands(["eat apple"])]),
]
game = maker.compile("./game.z8")
os.mkdir("running")
os.chdir("running")


def play(name, commands):
    env = textworld.start(game, EnvInfos(feedback=True, score=True, max_score=True, won=True))
    env.reset()
    for command in commands:
        state, _, _ = env.step(command)
        said = state.feedback.split("\n")[1]
        won = ", won True" if state.won else ""
        told = said if command in ("save", "restore") else f"score {state.score} of {state.max_score}{won}"
        print(f"{name} episode: {command}: {told}")


game = os.path.abspath(os.path.join("..", game))
play("first", ["put egg on table", "save"])
print("files left in the working directory:", *os.listdir("."))
play("second", ["restore", "eat apple"])
PYTHON

(cd "$work" && HOME=$work timeout 300 "$work/venv/bin/python" save.py) | tee "$work/seen"

if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    echo "textworld no longer does what is stated here" >&2
    exit 1
fi
