"""The Nexmark queries in SQL: what a job must give once its input has ended. DuckDB computes them.

Times and prices are BIGINT, so nothing is rounded. Division and remainder of negative numbers are floored, unlike those
of SQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import duckdb
import pyarrow

from nexmark.canonical import canonical_lines

__all__ = ["QUERIES", "Oracle"]

_TABLES = {
    "person": "seq, ts, id: int; name, email_address, credit_card, city, state, extra: str",
    "auction": (
        "seq, ts, id, initial_bid, reserve, expires, seller, category: int; item_name, description, extra: str"
    ),
    "bid": "seq, ts, auction, bidder, price: int; channel, url, extra: str",
}

_MACROS = """
create macro floor_mod(a, n) as (a % n + n) % n;
create macro floor_div(a, n) as (a - floor_mod(a, n)) // n;
create macro window_of(ts, size) as ts - floor_mod(ts, size);
create macro day_of(ts) as
    strftime(date '1970-01-01' + cast(floor_div(ts, 86400000) as integer), '%Y-%m-%d');
"""

_VALID_BIDS = """
    select
        auction.*,
        bid.seq as bid_seq, bid.ts as bid_ts, bid.extra as bid_extra, bid.bidder, bid.price
    from auction join bid on bid.auction = auction.id
    where bid.ts between auction.ts and auction.expires  -- both inclusive
"""

QUERIES = {
    "q0": "select auction, bidder, price, ts, extra from bid",
    "q1": "select auction, bidder, price * 908 as price_eur_milli, ts, extra from bid",
    "q2": "select auction, price from bid where auction % 123 = 0",
    "q3": """
        select person.name, person.city, person.state, auction.id
        from auction join person on auction.seller = person.id
        where auction.category = 10 and person.state in ('OR', 'ID', 'CA')
    """,
    "q4": f"""
        with finals as (select id, category, max(price) as final from ({_VALID_BIDS}) group by id, category)
        select category, floor_div(sum(final), count(*)) as avg_final from finals group by category
    """,
    "q5": """
        with placed as (
            select auction, window_of(ts, 2000) - slide * 2000 as window_start
            from bid cross join range(5) as slides(slide)
        ),
        counted as (select window_start, auction, count(*) as num from placed group by window_start, auction)
        select window_start, window_start + 10000 as window_end, auction, num
        from counted
        qualify num = max(num) over (partition by window_start)
    """,
    "q7": """
        select
            window_of(ts, 10000) as window_start, window_of(ts, 10000) + 10000 as window_end,
            auction, bidder, price, ts, extra
        from bid
        qualify price = max(price) over (partition by window_of(ts, 10000))
    """,
    "q8": """
        select distinct id, name, window_of(ts, 10000) as window_start
        from person
        where exists (
            from auction
            where auction.seller = person.id and window_of(auction.ts, 10000) = window_of(person.ts, 10000)
        )
    """,
    "q9": f"""
        select
            id, item_name, initial_bid, reserve, ts as auction_ts, expires, seller, category,
            bidder, price, bid_ts, bid_extra
        from ({_VALID_BIDS})
        qualify row_number() over (partition by id order by price desc, bid_ts, bid_seq) = 1
    """,
    "q11": """
        with marked as (
            select bidder, ts, seq, ts - lag(ts) over in_order >= 10000 as is_first  -- NULL for the first of all
            from bid
            window in_order as (partition by bidder order by ts, seq)
        ),
        numbered as (
            select bidder, ts, count(*) filter (is_first) over (partition by bidder order by ts, seq) as session
            from marked
        )
        select bidder, count(*) as bid_count, min(ts) as session_start, max(ts) + 10000 as session_end
        from numbered
        group by bidder, session
    """,
    "q12e": """
        select
            bidder, window_of(ts, 10000) as window_start, window_of(ts, 10000) + 10000 as window_end,
            count(*) as bid_count
        from bid
        group by bidder, window_start, window_end
    """,
    "q13": """
        with side as (select key, printf('side-%03d', key) as value from range(1000) as keys(key) where key % 3 <> 0)
        select auction, bidder, price, ts, value
        from bid join side on floor_mod(bid.auction, 1000) = side.key
    """,
    "q14": """
        with timed as (select *, price * 908 as price_eur_milli, floor_mod(ts, 86400000) // 3600000 as hour from bid)
        select
            auction, bidder, price_eur_milli, ts, extra,
            case
                when hour between 8 and 18 then 'dayTime'
                when hour between 0 and 6 or hour between 20 and 23 then 'nightTime'
                else 'otherTime'
            end as time_type,
            length(extra) - length(replace(extra, 'c', '')) as c_count
        from timed
        where price_eur_milli > 1000000000 and price_eur_milli < 50000000000
    """,
    "q15": """
        select
            day_of(ts) as day,
            count(*) as total_bids,
            count(*) filter (price < 10000) as rank1_bids,
            count(*) filter (price >= 10000 and price < 1000000) as rank2_bids,
            count(*) filter (price >= 1000000) as rank3_bids,
            count(distinct bidder) as total_bidders,
            count(distinct bidder) filter (price < 10000) as rank1_bidders,
            count(distinct bidder) filter (price >= 10000 and price < 1000000) as rank2_bidders,
            count(distinct bidder) filter (price >= 1000000) as rank3_bidders,
            count(distinct auction) as total_auctions,
            count(distinct auction) filter (price < 10000) as rank1_auctions,
            count(distinct auction) filter (price >= 10000 and price < 1000000) as rank2_auctions,
            count(distinct auction) filter (price >= 1000000) as rank3_auctions
        from bid
        group by day
    """,
    "q17": """
        select
            auction, day_of(ts) as day,
            count(*) as total_bids,
            count(*) filter (price < 10000) as rank1_bids,
            count(*) filter (price >= 10000 and price < 1000000) as rank2_bids,
            count(*) filter (price >= 1000000) as rank3_bids,
            min(price) as min_price, max(price) as max_price,
            floor_div(sum(price), count(*)) as avg_price, sum(price) as sum_price
        from bid
        group by auction, day
    """,
    "q19": """
        select
            auction, bidder, price, channel, ts, extra,
            row_number() over (partition by auction order by price desc, ts, seq) as rank
        from bid
        qualify rank <= 10
    """,
    # The parameter is looked for between the first "?" and a "#"; of several the first counts.
    "q21": r"""
        with parts as (select *, '^[^?#]*\?(?:[^#]*?&)??channel_id=([^&#]*)' as parameter from bid)
        select
            auction, bidder, price, channel,
            case lower(channel)
                when 'apple' then '0'
                when 'google' then '1'
                when 'facebook' then '2'
                when 'baidu' then '3'
                else regexp_extract(url, parameter, 1)
            end as channel_id
        from parts
        where lower(channel) in ('apple', 'google', 'facebook', 'baidu') or regexp_matches(url, parameter)
    """,
    # Lists count from 1; an element behind the end is NULL.
    "q22": """
        with parts as (select *, string_split(url, '/') as elements from bid)
        select auction, bidder, price, channel, elements[4] as dir1, elements[5] as dir2, elements[6] as dir3
        from parts
    """,
}
"""The SELECT of each query over the tables person, auction and bid, which have the columns of the events."""


class Oracle:
    """Answers the queries for one stream, in any order of its events.

    >>> Oracle([{"type": "bid", "auction": 1107, "price": 100}]).lines("q2")
    ['{"auction":1107,"price":100}']
    """

    def __init__(self, events: Iterable[Mapping[str, Any]]) -> None:
        rows: dict[str, list[Mapping[str, Any]]] = {table: [] for table in _TABLES}
        for event in events:
            rows[event["type"]].append(event)
        self._database = duckdb.connect(":memory:", config={"threads": 1})
        self._database.execute(_MACROS)
        for table, columns in _TABLES.items():
            self._database.register(table, pyarrow.Table.from_pylist(rows[table], schema=_schema(columns)))

    def rows(self, query: str) -> list[dict[str, Any]]:
        """The rows of the result, in no order."""
        cursor = self._database.execute(QUERIES[query])
        columns = [column[0] for column in cursor.description]
        return [dict(zip(columns, row)) for row in cursor.fetchall()]

    def lines(self, query: str) -> list[str]:
        """The result in canonical form, for `nexmark.canonical.digest`."""
        return canonical_lines(query, self.rows(query))


def _schema(columns: str) -> pyarrow.Schema:
    types = {"int": pyarrow.int64(), "str": pyarrow.string()}
    fields = []
    for group in columns.split("; "):
        names, _, kind = group.partition(": ")
        fields += [pyarrow.field(name, types[kind]) for name in names.split(", ")]
    return pyarrow.schema(fields)
