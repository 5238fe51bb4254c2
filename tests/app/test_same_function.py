"""A function that is sent has the same identity in every process, whatever it uses."""

import json
import subprocess
import sys

import pytest
from support import environment

KINDS = {
    "model": """
import pydantic
class M(pydantic.BaseModel):
  n: int = 1
  tags: set[str] = {'a','b','c'}
  @pydantic.field_validator('n')
  @classmethod
  def v(cls, x): return x
  model_config = pydantic.ConfigDict(frozen=True)
def f(x): return M(n=x)
""",
    "models": """
import pydantic, typing
class A(pydantic.BaseModel):
  n: int = 1
class B(pydantic.BaseModel):
  a: A
  l: list[A] = []
  u: typing.Literal['x','y'] = 'x'
obj=B(a=A())
def f(x): return B(a=A(n=x)), obj
""",
    "model as dataclass": """
from pydantic.dataclasses import dataclass
@dataclass
class D:
  n: int = 1
def f(x): return D(x)
""",
    "type adapter": """
import pydantic
T=pydantic.TypeAdapter(dict[str,int])
def f(x): return T.validate_python(x)
""",
    "dataclass": """
import dataclasses
@dataclasses.dataclass(frozen=True, order=True)
class D:
  n: int = 1
  s: frozenset = frozenset({'a','b','c'})
  d: dict = dataclasses.field(default_factory=dict)
def f(x): return D(x)
""",
    "slots": """
import dataclasses
@dataclasses.dataclass(slots=True)
class D:
  n: int = 1
  m: str = 'a'
def f(x): return D(x)
""",
    "enum": """
import enum
class E(enum.Enum):
  A=1
  B='b'
class F(enum.Flag):
  X=enum.auto()
  Y=enum.auto()
S={E.A,E.B}
def f(x): return E.A, F.X|F.Y, S
""",
    "abstract": """
import abc
class P(abc.ABC):
  @abc.abstractmethod
  def g(s): ...
class Q(P):
  def g(s): return 1
def f(x): return Q().g()
""",
    "generic": """
import typing
T=typing.TypeVar('T')
class G(typing.Generic[T]):
  def g(s, t: T) -> T: return t
class P(typing.Protocol):
  def q(s) -> int: ...
def f(x: 'G[int]'): return G[int]().g(x)
""",
    "named tuple": """
import typing, collections
class N(typing.NamedTuple):
  a: int = 1
Q=collections.namedtuple('Q','a b')
class TD(typing.TypedDict):
  a: int
def f(x): return N(x), Q(1,2), TD(a=1)
""",
    "sets": """
STOP={'a','bc','d','ef','gh'}
D={frozenset(['x','y','z']): {'p','q'}}
def f(x): return x in STOP or x in {'k','l','m'} or D
""",
    "subclass of set": """
class S(set): pass
T=S(['a','b','c'])
def f(x): return T
""",
    "decorator": """
import functools
def deco(n):
  def w(g):
    @functools.wraps(g)
    def h(*a, **k): return g(*a, **k)+n
    return h
  return w
@deco(3)
def g(x): return x
@functools.lru_cache(maxsize=5)
def c(x): return g(x)
def f(x): return c(x)
""",
    "mutual": """
def a(n): return n and b(n-1)
def b(n): return n and a(n-1)
def f(x): return a(x)
""",
    "pattern": """
import re
R=re.compile('a+', re.I)
def f(x): return R.match(x)
""",
    "logger": """
import logging
log=logging.getLogger('a')
from sys import stderr
def f(x): log.info('x'); print(1, file=stderr); return x
""",
    "environ": """
from os import environ
import os
def f(x): return environ['HOME'], os.environ.get('A')
""",
    "views": """
d={'a':1}
k=d.keys()
import types
m=types.MappingProxyType(d)
def f(x): return k, m
""",
    "cycle": """
class N:
  def __init__(s): s.nb=set()
a=N(); b=N(); a.nb.add(b); b.nb.add(a)
def f(x): return len(a.nb)
""",
    "metaclass": """
class T(type):
  def g(c): return 1
class M(metaclass=T):
  __slots__=('a','b')
  x: int
def f(x): return M.g()
""",
    "async": """
import asyncio
async def g(x): await asyncio.sleep(0); return x
async def f(x): return await g(x)
""",
    "comprehension": """
def f(x): return [y*z for y in range(x) for z in {1,2}] + sorted({str(k) for k in range(3)})
""",
    "local class": """
def mk():
  class L:
    def g(s): return 1
  import typing
  T=typing.TypeVar('T')
  return L, T
L,T=mk()
def f(x): return L().g(), T
""",
    "values": """
from pathlib import Path
import datetime, decimal, uuid, zoneinfo
p=Path('a'); d=datetime.datetime(2020,1,1); z=zoneinfo.ZoneInfo('UTC')
def f(x): return p, d, decimal.Decimal('1'), z
""",
    "super": """
class A:
  def g(s): return 1
class B(A):
  def g(s): return super().g()+1
def f(x): return B().g()
""",
    "attribute": """
def f(x): return f.k, f.__name__
f.k={'a','b'}
""",
    "object": """
class C:
  def __init__(s,k): s.k=k
  def __call__(s,x): return s.k
f=C({'q','r','s'})
""",
}

PROGRAM = """
import json, sys, warnings
from durable_bus.app.by_value import identity

shift, kinds = json.load(sys.stdin)
found = {}
for kind, source in kinds.items():
    names = {"__name__": "__main__"}
    exec(compile(shift * chr(10) + source, f"<cell {shift}>", "exec"), names)
    found[kind] = [identity(names["f"], data) for data in (b"one", b"other")]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_where_it_stands_and_how_sets_are_ordered_is_nothing() -> None:
    seen: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for shift, seed in enumerate("123"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            input=json.dumps([shift, KINDS]),
            env=environment(PYTHONHASHSEED=seed),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        for kind, identities in json.loads(done.stdout).items():
            seen[kind].update(identities)
    assert {kind: identities for kind, identities in seen.items() if len(identities) > 1} == {}
