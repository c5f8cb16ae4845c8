"""Remote objects: tests use the objects of a program, and the program uses the objects that tests lend to it."""

from __future__ import annotations

from grading_without_sandbox import STACK, invalid, results


def test_arguments_are_changed_in_place():
    source = """
        def sort(items): items.sort()
        def deep(grid): grid[1][0] = 'x'; grid.append([0])
        def pop(table, *, key): del table[key]; table['new'] = {1, 2}
        def fill(room): room[:] = b'full'
        def inner(pair): pair[0].append(1)
        """
    assert (
        results(
            source,
            "x = [3, 1, 2]; y = x; assert sort(x) is None; assert y == [1, 2, 3]",
            "row = [0, 0]; grid = [[1], row]; deep(grid); assert grid == [[1], ['x', 0], [0]]; assert row[0] == 'x'",
            "t = {'a': 1, 'b': 2}; pop(table=t, key='a'); assert t == {'b': 2, 'new': {1, 2}}",
            "room = bytearray(b'empty'); fill(room); assert room == b'full'",
            "items = []; inner((items, 5)); assert items == [1]",
        )
        == ["passed"] * 5
    )


def test_generators_and_iterators():
    source = """
        def upto(n):
            for i in range(n):
                yield i

        def forever():
            n = 0
            while True:
                n += 1
                yield n

        def pairs(a, b): return zip(a, b)
        def total(numbers): return sum(numbers)
        """
    assert (
        results(
            source,
            "assert list(upto(4)) == [0, 1, 2, 3]",
            "it = forever(); assert next(it) == 1; assert next(it) == 2; assert iter(it) is it",
            "it = upto(0)\ntry:\n    next(it)\n    assert False\nexcept StopIteration:\n    pass",
            "assert dict(pairs('ab', [1, 2])) == {'a': 1, 'b': 2}",
            "assert total(n * n for n in range(4)) == 14",
            "assert total(range(4)) == 6",
            "assert [a + b for a, b in zip(upto(3), forever())] == [1, 3, 5]",
            "assert 3 in upto(5) and 7 not in upto(5)",
        )
        == ["passed"] * 8
    )


def test_objects_of_the_programs_classes():
    assert (
        results(
            STACK,
            "s = Stack(); s.push(1); s.push(2); assert s.pop() == 2 and len(s) == 1",
            "v = Vector(1, 2) + Vector(x=3); assert v.x == 4 and v[1] == 2; assert str(v) == f'{v}' == '<4, 2>'",
            "assert Vector(1, 2) == Vector(1, 2); assert Vector(1) != Vector(2); assert Vector(3, 4).norm == 5",
            "assert isinstance(Vector(1), Vector) and not isinstance(3, Vector) and not isinstance(Stack(), Vector)",
            "v = Vector(1); v.x = 9; assert v.x == 9; assert (-v).x == -9; assert Vector.zero().x == 0",
            "assert min([Vector(2), Vector(1)]).x == 1; assert len(Vector(1)) == 2",
            "n = Node(1); n.next = Node(2); n.next.next = n.next.next; assert length(n) == 2; assert n.next is n.next",
            "assert not hasattr(Node(1), 'left'); assert hasattr(Node(1), 'next')",
            "with Managed() as m:\n    assert m.log == ['in']\nassert Managed().log[-1] == 'out'",
        )
        == ["passed"] * 9
    )


def test_the_tests_own_objects_and_functions():
    source = """
        import threading

        def apply(f, x): return f(x)
        def ordered(items, key): return sorted(items, key=key)
        def depth(tree): return 0 if tree is None else 1 + max(depth(tree.left), depth(tree.right))
        def invert(tree): tree.left, tree.right = tree.right, tree.left; return tree
        def threaded(f, items):
            found = []
            threads = [threading.Thread(target=lambda x=x: found.append(f(x))) for x in items]
            for t in threads: t.start()
            for t in threads: t.join()
            return sorted(found)
        def maker(n): return lambda x: x + n
        def twice(f):
            def wrapped(*args): return f(f(*args))
            return wrapped
        def only(items, kind): return [x for x in items if isinstance(x, kind)]
        def caught(f):
            try: f()
            except ZeroDivisionError as error: return str(error)
        """
    setup = """
class Tree:
    def __init__(self, left=None, right=None):
        self.left, self.right = left, right
def countdown(n):
    return 0 if n == 0 else apply(countdown, n - 1)
"""
    assert (
        results(
            source,
            "assert apply(lambda x: x * 2, 4) == 8",
            "assert ordered(['bb', 'a'], key=len) == ['a', 'bb']",
            "assert depth(Tree(Tree(), Tree(None, Tree()))) == 3",
            "a = Tree(); tree = Tree(a); assert invert(tree) is tree; assert tree.right is a and tree.left is None",
            "assert threaded(lambda x: -x, [3, 1, 2]) == [-3, -2, -1]",
            "assert maker(3)(4) == 7; assert apply(maker(1), 1) == 2",
            "assert twice(lambda x: x + 1)(5) == 7",
            "assert only([1, 'a', 2.5], int) == [1]; assert only([1, 'a'], (int, str)) == [1, 'a']",
            "assert caught(lambda: 1 / 0) == 'division by zero'",
            "assert countdown(20) == 0",
            setup=setup,
        )
        == ["passed"] * 10
    )


def test_exceptions_that_tests_expect():
    source = """
        class Missing(KeyError): pass
        def f(kind):
            if kind == 'exit': raise SystemExit(3)
            if kind == 'missing': raise Missing('it')
            if kind == 'assert': assert False, 'in the program'
            raise ValueError('bad kind')
        """
    assert results(
        source,
        "try:\n    f(1)\n    assert False\nexcept ValueError as error:\n    assert str(error) == 'bad kind'",
        "try:\n    f('missing')\n    assert False\nexcept KeyError as error:\n    assert error.args == ('it',)",
        "try:\n    f('exit')\n    assert False\nexcept SystemExit:\n    pass",
        "f(1)",
        "f('exit')",
        "f('assert')",
        "import pytest\nwith pytest.raises(ValueError, match='bad'):\n    f(1)",
    ) == ["passed", "passed", "passed", "error", "error", "error", "passed"]


def test_the_main_block_does_not_run_and_the_module_has_a_name():
    source = """
        import dataclasses
        @dataclasses.dataclass
        class P:
            x: 'int'
        def f(): return __name__
        if __name__ == '__main__':
            input()
        """
    assert results(source, "assert f() == 'program'", "assert P(1).x == 1") == ["passed", "passed"]


def test_the_programs_variables_are_read_when_they_are_used():
    source = "count = 0\ndef f():\n    global count\n    count += 1"
    assert results(source, "f(); f()", "assert count == 2", "f()", "assert count == 3") == ["passed"] * 4


def test_a_module_that_raises_fails_every_test():
    assert results("1 / 0", "assert f(1) == 1", "assert f(2) == 2") == ["error", "error"]
    assert results("import sys; sys.exit(0)", "assert f(1) == 1") == ["error"]
    assert results("def f(:", "assert f(1) == 1") == ["ended"]


RECORDS = """
    from dataclasses import dataclass, field
    @dataclass
    class Point:
        x: int
        tags: list = field(default_factory=list)
    class Plain:
        pass
    def same(x): return x
    """


def test_dataclasses_of_the_program_are_taken_apart():
    assert results(
        RECORDS,
        "assert asdict(Point(1, ['a'])) == {'x': 1, 'tags': ['a']} and astuple(Point(2)) == (2, [])",
        "assert [one.name for one in fields(Point)] == ['x', 'tags'] and is_dataclass(Point(1))",
        "assert dataclasses.replace(Point(1), x=5).x == 5 and not is_dataclass(Plain())",
        "assert asdict(Point(1)) == {'x': 2, 'tags': []}",
        "@dataclasses.dataclass\nclass Own:\n    y: int\nassert asdict(Own(same(3))) == {'y': 3}",
        setup="import dataclasses\nfrom dataclasses import asdict, astuple, fields, is_dataclass",
    ) == ["passed", "passed", "passed", "wrong", "passed"]


def test_what_cannot_cross_says_so():
    assert invalid(RECORDS, "class Own(Plain):\n    pass\nassert Own()") == (
        "a test fails by itself: a class of the tests cannot extend a class of the program"
    )
    frame = "class DataFrame:\n    pass\nDataFrame.__module__ = 'pandas'\nsame(DataFrame())"
    assert "a DataFrame cannot be sent between a program and its tests" in invalid(RECORDS, frame)
