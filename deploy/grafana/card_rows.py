"""The rows of cards, and of what they cost."""

from __future__ import annotations

from deploy.grafana.panels import WINDOW, Panel, Query, Row, newest, rate, share
from vqa.metrics import declared
from vqa.metrics.declared import ENGINE, Metric

_ANSWERED = 'outcome="answered"'
_CARD = declared.GPU_MEMORY.name
#: a worker without a card counts as one card, so that there is a cost on machines for tests, too
_CARDS = f"count({_CARD} or {declared.SLOTS.name} unless on (job, instance) {_CARD})"


def cost_of(thousands: str) -> str:
    """Return the price of the cards by what they yield: PromQL of thousands a second."""
    return f"$price * {_CARDS} / 3600 / ({thousands} > 0)"


def _by_card(metric: Metric) -> str:
    return f"max by (instance, card) ({metric.name})"


CARDS = Row(
    "Slots and cards",
    (
        Panel(
            "Slots",
            (
                Query(f"sum({declared.SLOTS_USED.name})", "used"),
                Query(f"sum({declared.JOBS_HELD.name})", "jobs held"),
                Query(f"sum({declared.SLOTS.name})", "slots"),
                Query(newest(declared.QUEUE_SLOTS), "slots of ready workers"),
            ),
            help="jobs held: those included whose images are decoded before they get a slot",
        ),
        Panel(
            "Slots used by worker",
            (Query(share(declared.SLOTS_USED.name, declared.SLOTS.name), "{{instance}}"),),
            "percentunit",
            most=1,
        ),
        Panel(
            "Busy share of the engine",
            (Query(f"rate({ENGINE['pass_s'].name}[{WINDOW}])", "{{instance}}"),),
            "percentunit",
            most=1,
            help="Continuous engine: time in forward passes",
        ),
        Panel("GPU use", (Query(_by_card(declared.GPU_BUSY), "{{instance}} {{card}}"),), "percentunit", most=1),
        Panel(
            "GPU memory",
            (
                Query(_by_card(declared.GPU_MEMORY_USED), "{{instance}} {{card}} used"),
                Query(_by_card(declared.GPU_MEMORY), "{{instance}} {{card}}"),
            ),
            "bytes",
        ),
        Panel("GPU power", (Query(_by_card(declared.GPU_POWER), "{{instance}} {{card}}"),), "watt"),
        Panel("GPU temperature", (Query(_by_card(declared.GPU_TEMPERATURE), "{{instance}} {{card}}"),), "celsius"),
        Panel(
            "Fill of the batch",
            (
                Query(
                    f"rate({ENGINE['step_tokens'].name}[{WINDOW}]) / rate({ENGINE['steps'].name}[{WINDOW}])"
                    f" / {declared.SLOTS.name}",
                    "{{instance}}",
                ),
            ),
            "percentunit",
            most=1,
            help="Continuous engine: slots that decode, of all, in passes without parts of prompts",
        ),
        Panel(
            "KV cache used",
            (Query(share(ENGINE["blocks_used"].name, ENGINE["blocks"].name), "{{instance}}"),),
            "percentunit",
            most=1,
            help="Continuous engine",
        ),
        Panel(
            "Time of a decode step",
            (
                Query(
                    f"rate({ENGINE['step_s'].name}[{WINDOW}]) / rate({ENGINE['steps'].name}[{WINDOW}])",
                    "{{instance}}",
                ),
            ),
            "s",
            help="Continuous engine",
        ),
        Panel(
            "Forward passes per second",
            (
                Query(rate(ENGINE["passes"]), "all"),
                Query(rate(ENGINE["steps"]), "without parts of prompts"),
            ),
            "cps",
            help="Continuous engine",
        ),
        Panel(
            "Processes that decode images",
            (
                Query(f"sum({declared.DECODERS_USED.name})", "used"),
                Query(f"sum({declared.DECODERS.name})", "processes"),
            ),
        ),
    ),
)

COST = Row(
    "Cost",
    (
        Panel(
            "Cost of 1,000 answers",
            (Query(cost_of(rate(declared.ATTEMPTS, _ANSWERED) + " / 1000"), "1,000 answers"),),
            help="In the currency of the price above. Idle cards cost, too: with no answer at all there is no figure",
        ),
        Panel(
            "Cost of a million tokens of answers",
            (Query(cost_of(rate(declared.ANSWER_TOKENS) + " / 1e6"), "1,000,000 tokens"),),
            help="All costs on the answers' tokens, none on the prompts'",
        ),
        Panel(
            "Cost per hour",
            (Query(f"$price * {_CARDS}", "all cards"),),
            help="A worker without a card counts as one card",
        ),
    ),
)
