import asyncio

from producer.gateway.tasks import end_tasks


def test_a_task_that_loses_a_cancellation_is_ended_all_the_same() -> None:
    async def run() -> int:
        lost = 0

        async def stubborn() -> None:
            nonlocal lost
            while True:
                try:
                    await asyncio.sleep(10)
                except asyncio.CancelledError:
                    lost += 1
                    if lost == 3:
                        raise

        tasks = [asyncio.create_task(stubborn()), asyncio.create_task(asyncio.sleep(0))]
        await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            await end_tasks(*tasks)
        assert all(task.done() for task in tasks)
        return lost

    assert asyncio.run(run()) == 3
