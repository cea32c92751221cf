"""The dashboard's panels, row by row."""

from __future__ import annotations

from deploy.grafana.card_rows import CARDS, COST, cost_of
from deploy.grafana.panels import LANE, Panel, Query, Row, by_model, newest, quantile, rate, share
from vqa.metrics import declared
from vqa.metrics.declared import ENGINE

_ANSWERED = 'outcome="answered"'
#: several `vqa metrics` and gateways may show the same jobs
_OPEN_JOBS = newest(declared.QUEUE_JOBS, LANE, "lane, model, state")
_GREEN, _YELLOW, _RED = "green", "yellow", "red"

#: of an answered job, in the order in which they pass
STAGES = {
    "queued": declared.QUEUED_S,
    "images": declared.MEDIA_S,
    "engine": declared.ENGINE_S,
    "slot wait": declared.SLOT_WAIT_S,
    "prefill": declared.PREFILL_S,
    "decode": declared.DECODE_S,
    "first text": declared.FIRST_TEXT_S,
    "total": declared.TOTAL_S,
}


def _by_stage(share: float, title: str) -> Panel:
    queries = tuple(Query(quantile(share, metric), stage) for stage, metric in STAGES.items())
    help = (
        "Answered jobs of the chosen lanes. slot wait, prefill and decode: parts of engine; first text: streamed jobs"
    )
    return Panel(title, queries, "s", help=help)


NOW = Row(
    "Now",
    (
        Panel(
            "Answers per second",
            (Query(rate(declared.ATTEMPTS, _ANSWERED), ""),),
            "reqps",
            span=3,
            number=True,
        ),
        Panel("P95", (Query(quantile(0.95, declared.TOTAL_S), ""),), "s", span=3, number=True),
        Panel(
            "Oldest interactive job",
            (Query(newest(declared.QUEUE_OLDEST_S, 'lane="interactive"'), ""),),
            "s",
            help="Of all models; the row Queue has each model's",
            span=3,
            number=True,
            thresholds=((0, _GREEN), (10, _YELLOW), (60, _RED)),
        ),
        Panel(
            "Ready workers",
            (Query(newest(declared.WORKERS, 'state="ready"'), ""),),
            span=3,
            number=True,
            thresholds=((0, _RED), (1, _GREEN)),
        ),
        Panel(
            "Slots used",
            (Query(share(f"sum({declared.SLOTS_USED.name})", f"sum({declared.SLOTS.name})"), ""),),
            "percentunit",
            span=3,
            number=True,
        ),
        Panel(
            "Dead letters",
            (Query(newest(declared.DEAD_LETTERS), ""),),
            span=3,
            number=True,
            thresholds=((0, _GREEN), (1, _YELLOW)),
        ),
        Panel(
            "Alerts",
            (Query('count(ALERTS{alertname=~"Vqa.*", alertstate="firing"}) or vector(0)', ""),),
            help="Prometheus's page Alerts has them, with what to do",
            span=3,
            number=True,
            thresholds=((0, _GREEN), (1, _RED)),
        ),
        Panel(
            "Cost of 1,000 answers",
            (Query(cost_of(rate(declared.ATTEMPTS, _ANSWERED, window="15m") + " / 1000"), ""),),
            help="Of the last 15 minutes, in the currency of the price above. Empty if nothing was answered",
            span=3,
            number=True,
        ),
    ),
)

ANSWERS = Row(
    "Answers",
    (
        Panel("Answers per second", (Query(rate(declared.ATTEMPTS, _ANSWERED, "lane"), "{{lane}}"),), "reqps"),
        Panel("P95 by lane", (Query(quantile(0.95, declared.TOTAL_S, "lane"), "{{lane}}"),), "s"),
        Panel(
            "Attempts by outcome",
            (Query(rate(declared.ATTEMPTS, LANE, "outcome"), "{{outcome}}"),),
            "cps",
            stacked=True,
        ),
        _by_stage(0.5, "P50 by stage"),
        _by_stage(0.95, "P95 by stage"),
        _by_stage(0.99, "P99 by stage"),
    ),
)

QUEUE = Row(
    "Queue",
    (
        Panel(
            "Open jobs",
            (Query(f"sum by (lane, state) ({_OPEN_JOBS})", "{{lane}} {{state}}"),),
            stacked=True,
            help="waiting: for the tenant's turn; queued: for a worker; leased: a worker has it; delayed: for a retry",
        ),
        Panel(
            "Age of the oldest job",
            (Query(newest(declared.QUEUE_OLDEST_S, LANE, "lane, state"), "{{lane}} {{state}}"),),
            "s",
        ),
        Panel(
            "Overdue leases and delays",
            (Query(newest(declared.QUEUE_OVERDUE_S, LANE, "lane, state"), "{{lane}} {{state}}"),),
            "s",
            help="Above 10 s no janitor runs",
        ),
        Panel(
            "Open jobs by model",
            (Query(by_model(f"sum by (lane, model) ({_OPEN_JOBS})"), "{{lane}} {{model}}"),),
            stacked=True,
            help="(none named): any worker may take them; (other): models that no worker serves now",
        ),
        Panel(
            "Age of the oldest job by model",
            (Query(by_model(newest(declared.QUEUE_OLDEST_S, LANE, "lane, model")), "{{lane}} {{model}}"),),
            "s",
            help="Of those that wait for their turn or a worker: one that grows while others stay low has no worker",
        ),
        Panel(
            "Age of the oldest job that runs",
            (Query(newest(declared.HELD_OLDEST_S, LANE, "lane"), "{{lane}}"),),
            "s",
            help="Since its acceptance, of the jobs that workers have leased",
        ),
        Panel(
            "Workers",
            (Query(newest(declared.WORKERS, by="state"), "{{state}}"),),
            span=6,
        ),
        Panel("Inbox", (Query(newest(declared.INBOX), "jobs not accepted yet"),), span=6),
        Panel(
            "Redis's memory",
            (
                Query(newest(declared.REDIS_MEMORY), "used"),
                Query(newest(declared.REDIS_MEMORY_LIMIT) + " > 0", "maxmemory"),
            ),
            "bytes",
            span=6,
            help="New jobs are refused at 80 % of maxmemory",
        ),
        Panel(
            "Metrics that can be read",
            (Query('up{job=~"vqa-.*"}', "{{instance}}"), Query(newest(declared.UP), "Redis")),
            span=6,
            most=1,
        ),
    ),
)

TOKENS = Row(
    "Tokens and caches",
    (
        Panel(
            "Tokens per second",
            (
                Query(rate(declared.PROMPT_TOKENS, LANE), "prompts"),
                Query(rate(declared.CACHED_TOKENS, LANE), "of them from the prefix cache"),
                Query(rate(declared.ANSWER_TOKENS, LANE), "answers"),
            ),
            "cps",
            help="Of answered jobs; thoughts are answers' tokens",
        ),
        Panel(
            "Tokens computed per second",
            (
                Query(rate(ENGINE["prompt_tokens"]), "prompts"),
                Query(rate(ENGINE["cached_tokens"]), "prompts, from the prefix cache"),
                Query(rate(ENGINE["answer_tokens"]), "answers"),
            ),
            "cps",
            help="Continuous engine, as it computes; discarded answers included",
        ),
        Panel(
            "Cache hits",
            (
                Query(share(rate(declared.CACHED_TOKENS, LANE), rate(declared.PROMPT_TOKENS, LANE)), "prefix cache"),
                Query(
                    share(rate(declared.REUSED, LANE), rate(declared.ATTEMPTS, f"{_ANSWERED},{LANE}")),
                    "answer cache",
                ),
            ),
            "percentunit",
            most=1,
            help="prefix cache: of the prompts' tokens; answer cache: of the answers",
        ),
    ),
)

ERRORS = Row(
    "Errors",
    (
        Panel(
            "Errors by code",
            (Query(rate(declared.ATTEMPTS, f'code!="",{LANE}', "code, outcome"), "{{code}} {{outcome}}"),),
            "cps",
            stacked=True,
            help="retried: another attempt follows; dead_letter: the job is given up, with the code of its last error",
        ),
        Panel(
            "Retries and redeliveries",
            (
                Query(rate(declared.ATTEMPTS, f'outcome="retried",{LANE}') + " or vector(0)", "retries"),
                Query(rate(declared.REDELIVERED, LANE), "redeliveries: jobs that had lost a worker"),
                Query(rate(declared.LOST_LEASES), "leases lost: closed or taken elsewhere"),
            ),
            "cps",
        ),
        Panel("Dead letters", (Query(newest(declared.DEAD_LETTERS), "kept"),)),
        Panel(
            "Newest dead letters by code",
            (Query(newest(declared.DEAD_NEWEST, by="code"), "{{code}}"),),
            span=6,
            stacked=True,
            help="The last errors of the newest 100",
        ),
        Panel(
            "Word filter",
            (Query(rate(declared.FILTERED, by="category"), "{{category}}"),),
            "cps",
            span=6,
            help="Answers and refused questions with words of a category; empty without VQA_FILTER_LISTS",
        ),
        Panel("Renewals of leases per second", (Query(rate(declared.RENEWALS), "calls to Redis"),), "cps", span=6),
        Panel("Versions", (Query(f"count by (version, job) ({declared.BUILD.name})", "{{job}} {{version}}"),), span=6),
    ),
)

ROWS = (NOW, ANSWERS, QUEUE, CARDS, TOKENS, ERRORS, COST)
