"""Two programs as users write them, on files: prices as of orders, and a left join. DuckDB says what must come out."""

import csv
import json
import random
from datetime import timedelta
from typing import NamedTuple

import duckdb
import pytest

from sage_flow.testing import MODES

SYMBOLS = ["AAA", "BBB", "CCC", "DDD"]


class Order(NamedTuple):
    sym: str
    qty: int
    ts: int


class Price(NamedTuple):
    sym: str
    price: float
    ts: int


def disordered(rows, rng):
    """Each row is at most 5 s behind the largest time before it."""
    return sorted(rows, key=lambda row: row["ts"] + rng.randrange(5_000))


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def market(tmp_path, monkeypatch):
    """`orders.jsonl` and `prices.jsonl` in the current directory: three hours, with long times without prices."""
    monkeypatch.chdir(tmp_path)
    rng = random.Random(5)
    start, span = 1_700_000_000_000, 3 * 3_600_000
    times = rng.sample(range(0, span, 7), 700)  # no two prices of one time
    orders = [{"sym": rng.choice(SYMBOLS), "qty": rng.randrange(1, 100), "ts": start + t} for t in times[:400]]
    quoted = SYMBOLS[:3]
    prices = [
        {"sym": rng.choice(quoted), "price": rng.randrange(100, 900) / 4, "ts": start + t // 3} for t in times[400:]
    ]
    write_lines(tmp_path / "orders.jsonl", disordered(orders, rng))
    write_lines(tmp_path / "prices.jsonl", disordered(prices, rng))
    return tmp_path


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode.name != "simulation-2"], ids=str)
def test_each_order_has_the_price_of_its_time(mode, market):
    env = mode.environment()
    orders = (
        env.read_jsonl("orders.jsonl")
        .map(lambda d: Order(**d))
        .assign_timestamps(lambda o: o.ts, max_out_of_order=timedelta(seconds=5))
    )
    prices = (
        env.read_jsonl("prices.jsonl")
        .map(lambda d: Price(**d))
        .assign_timestamps(lambda p: p.ts, max_out_of_order=timedelta(seconds=5), idle_after=timedelta(seconds=2))
    )
    valued = orders.key_by(lambda o: o.sym).join_asof(
        prices.key_by(lambda p: p.sym),
        lambda order, price: (order.sym, order.qty * price.price if price else None),
        tolerance=timedelta(minutes=10),
    )
    valued.write_jsonl("valued.jsonl")
    result = env.execute(progress=False)
    assert not any(result.late_records.values())
    expected = duckdb.sql(
        """
        select sym, if(ts - quoted_at <= 600000, qty * price, null)
        from (select o.*, p.price, p.ts as quoted_at from 'orders.jsonl' o asof left join 'prices.jsonl' p
              on o.sym = p.sym and o.ts >= p.ts)
        """
    ).fetchall()
    rows = [tuple(json.loads(line)) for line in (market / "valued.jsonl").read_text().splitlines()]
    assert sorted(rows, key=repr) == sorted(expected, key=repr)
    assert len({value is None for _, value in rows}) == 2


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """`people.csv` and `orders.csv` in the current directory: some people without orders, some orders of nobody."""
    monkeypatch.chdir(tmp_path)
    rng = random.Random(6)
    with open("people.csv", "w", newline="") as file:
        csv.writer(file).writerows([("id", "name"), *((n, f"person {n}") for n in range(60))])
    with open("orders.csv", "w", newline="") as file:
        csv.writer(file).writerows([("id", "customer"), *((n, rng.randrange(30, 90)) for n in range(200))])
    return tmp_path


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode.name != "simulation-2"], ids=str)
def test_a_left_join_of_two_files_is_the_one_of_sql(mode, shop):
    env = mode.environment()
    people = env.read_csv("people.csv").key_by(lambda p: str(p["id"]))
    bought = env.read_csv("orders.csv").key_by(lambda o: str(o["customer"]))
    people.join(bought, lambda p, o: {**p, "order": o["id"] if o else None}, how="left").write_csv("joined.csv")
    env.execute(progress=False)
    expected = duckdb.sql(
        """
        select p.id, p.name, o.id from read_csv('people.csv', all_varchar=true) p
        left join read_csv('orders.csv', all_varchar=true) o on p.id = o.customer
        """
    ).fetchall()
    with open("joined.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "name", "order"]
    assert sorted(map(tuple, rows)) == sorted((*names, order or "") for *names, order in expected)
