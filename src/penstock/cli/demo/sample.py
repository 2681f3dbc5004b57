"""A shop's clickstream, made up: the same for the same arguments, and shaped like a real one.

Visitors come from somewhere, look around, some search, some fill a basket, few buy.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote_plus

Record = dict[str, Any]

SITE = "https://shop.example"
_PRODUCTS = {
    "brass-lantern": 48.00,
    "canvas-tent": 219.00,
    "enamel-mug": 12.50,
    "field-notebook": 9.90,
    "folding-saw": 34.00,
    "merino-blanket": 89.00,
    "trail-map": 14.00,
    "wool-socks": 18.50,
}
_REFERRERS = {
    "https://search.example/": 5,
    "https://news.example/gear-of-the-year": 2,
    "https://social.example/": 2,
    "": 3,
}
_DEVICES = {"mobile": 6, "desktop": 4, "tablet": 1}
_COUNTRIES = {"DE": 3, "US": 3, "FR": 2, "JP": 1, "BR": 1}
_SEARCHES = ("tent two person", "warm socks", "mug", "gift under 20")

#: What a visitor does after each step, with weights; "" leaves the shop.
_NEXT_STEP = {
    "page_view": {"product_view": 5, "search": 3, "page_view": 2, "": 2},
    "search": {"product_view": 6, "search": 1, "": 2},
    "product_view": {"add_to_cart": 4, "product_view": 4, "page_view": 1, "": 2},
    "add_to_cart": {"checkout": 4, "product_view": 3, "": 2},
    "checkout": {"purchase": 6, "": 2},
    "purchase": {"": 1},
}


def clickstream(count: int, *, run: str, end: datetime, seed: int = 0) -> list[Record]:
    """`count` records, in the order of their time, the last one at `end` (UTC).

    Each has an `id` that starts with `run` and occurs once, so that whoever reads them back can tell whether
    every one arrived, and only once.
    """
    rng = random.Random(seed)
    events: list[Record] = []
    visit = 0
    while len(events) < count:
        events += _visit(rng, f"{run}-s{visit:03d}", start_s=rng.uniform(0, 600))
        visit += 1
    events = sorted(events[:count], key=lambda event: event["ts"])
    shift = end - timedelta(seconds=events[-1]["ts"]) if events else end
    return [
        {"id": f"{run}-{number:05d}"} | event | {"ts": _iso(shift + timedelta(seconds=event["ts"]))}
        for number, event in enumerate(events)
    ]


def _visit(rng: random.Random, session: str, *, start_s: float) -> list[Record]:
    """What one visitor does, from arriving to leaving; `ts` in seconds."""
    user, device, country = f"u{rng.randrange(1, 120)}", _pick(rng, _DEVICES), _pick(rng, _COUNTRIES)
    referrer, step, at_s, product = _pick(rng, _REFERRERS), "page_view", start_s, rng.choice(list(_PRODUCTS))
    events: list[Record] = []
    while step:
        if step == "product_view":
            product = rng.choice(list(_PRODUCTS))
        url, details = _page(rng, step, product)
        events.append(
            {
                "event": step,
                "ts": at_s,
                "user": user,
                "session": session,
                "url": url,
                "referrer": referrer or None,
                "device": device,
                "country": country,
                **details,
            }
        )
        referrer, step, at_s = url, _pick(rng, _NEXT_STEP[step]), at_s + rng.uniform(1, 40)
    return events


def _page(rng: random.Random, step: str, product: str) -> tuple[str, Record]:
    """Where the step happens, and what belongs to it alone."""
    price = _PRODUCTS[product]
    match step:
        case "search":
            words = rng.choice(_SEARCHES)
            return f"{SITE}/search?q={quote_plus(words)}", {"query": words}
        case "product_view":
            return f"{SITE}/p/{product}", {"product": product, "price": price}
        case "add_to_cart":
            return f"{SITE}/p/{product}", {"product": product, "price": price, "quantity": rng.randint(1, 3)}
        case "checkout":
            return f"{SITE}/checkout", {}
        case "purchase":
            return f"{SITE}/thanks", {"amount": round(price * rng.randint(1, 3), 2), "currency": "EUR"}
        case _:
            return f"{SITE}/{rng.choice(['', 'new', 'sale'])}", {}


def _pick(rng: random.Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
