"""Containers that a program and its tests share: each sees what the other changes in place, as in one process."""

from __future__ import annotations

from grading_without_sandbox import results

OBJECTS = """
    import contextlib
    from collections import Counter, deque
    class Shop:
        def __init__(self):
            self.items, self.prices, self.board = [], {}, [[' '] * 3 for _ in range(3)]
            self.queue, self.counts, self.seen, self.pair = deque(), Counter(), set(), ([], 5)
        def size(self): return len(self.items)
        def price(self, name): return self.prices.get(name)
        def corner(self): return self.board[0][0]
        def sizes(self): return [len(self.queue), self.counts['x'], len(self.seen), len(self.pair[0])]
    class Node:
        def __init__(self): self.children = []
        def first(self): return self.children[0]
    class Keeper:
        def __init__(self, items): self.items = items
        def add(self): self.items.append(1)
    LOG, CACHE, KEPT = [], [], []
    def log(x): LOG.append(x)
    def cached(): return list(CACHE)
    def kept(): return KEPT
    def length_of_kept(): return len(KEPT)
    def same(a): return a
    def add_and_fail(a): a.append(1); raise ValueError('after a change')
    def add_and_ask(a, f): a.append(1); seen = f(); a.append(2); return seen
    def start(numbers): numbers[0] = -1
    class Calm:
        def __enter__(self): return self
        def __exit__(self, kind, error, traceback): return True
        def number(self): return 3
    def without(kind): return contextlib.suppress(kind)
    """


def test_what_tests_change_is_changed_in_the_program():
    assert results(
        OBJECTS,
        "s = Shop(); s.items.append(3); assert s.size() == 1",
        "s = Shop(); s.prices['tea'] = 3; assert s.price('tea') == 3",
        "s = Shop(); s.board[0][0] = 'X'; assert s.corner() == 'X'",
        "s = Shop(); s.board[0][0] = 'X'; assert s.corner() == ' '",
        "s = Shop(); s.queue.append(1); s.counts['x'] += 2; s.seen.add(4); s.pair[0].append(1)\n"
        "assert s.sizes() == [1, 2, 1, 1]",
        "a, b = Node(), Node(); a.children.append(b); assert a.first() is b and a.children[0] is b",
        "CACHE.append(1); assert cached() == [1]",
        "x = kept(); x.append(1); assert length_of_kept() == 1 and kept() is x",
    ) == ["passed", "passed", "passed", "wrong", "passed", "passed", "passed", "passed"]


def test_what_the_program_changes_is_changed_in_the_tests():
    assert (
        results(
            OBJECTS,
            "log(1); assert LOG == [1]; log(2); assert LOG == [1, 2]",
            "mine = []; k = Keeper(mine); k.add(); k.add(); assert mine == [1, 1] and k.items is mine",
            "mine = []\ntry: add_and_fail(mine)\nexcept ValueError: pass\nassert mine == [1]",
            "mine = []; assert add_and_ask(mine, lambda: list(mine)) == [1] and mine == [1, 2]",
            "big = list(range(100_000)); start(big); assert big[:2] == [-1, 1]",
        )
        == ["passed"] * 5
    )


def test_a_container_stays_the_one_that_it_is():
    assert results(
        OBJECTS,
        "a = [1]; assert same(a) is a and same([a, a])[1] is a",
        "a = [1]; assert same([1]) is a",
    ) == ["passed", "wrong"]


def test_what_cannot_be_sent_ends_the_sharing_alone():
    assert (
        results(
            OBJECTS,
            "x = kept(); x.append(object()); assert length_of_kept() == 0",
            "x = Shop().items; x.append(x); assert Shop().size() == 0",
            setup="Shop().size()",
        )
        == ["passed"] * 2
    )


def test_a_programs_blocks_suppress_exceptions_but_no_failed_assertion():
    assert results(
        OBJECTS,
        "with Calm(): raise ValueError\nassert Shop().size() == 0",
        "with without(ZeroDivisionError): 1 / 0\nassert Shop().size() == 0",
        "with Calm() as calm: assert calm.number() == 4",
        "with Calm(): absent()",
    ) == ["passed", "passed", "wrong", "error"]
