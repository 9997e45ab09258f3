from app.store.store import Store


async def test_history_of_releases_is_newest_first(store: Store):
    first = await store.record_release("1", "deploy", {"1": 1.0}, actor="ann", reason="first")
    second = await store.record_release(
        "2", "promote", {"1": 0.5, "2": 0.5}, {"press": {"2": 100.0}}, actor="bob", reason="better"
    )

    assert await store.list_releases() == [second, first]
    assert await store.list_releases(limit=1) == [second]
    assert await store.list_releases(before=second.release_id) == [first]
    assert second.designs == {"press": {"2": 100.0}}
