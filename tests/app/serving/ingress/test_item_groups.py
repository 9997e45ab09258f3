from itertools import chain

from app.schemas.diagnosis import DiagnosisRequest
from app.serving.ingress.item_groups import groups_of


def test_groups_of_a_batch_hold_about_the_same_work():
    plain = [DiagnosisRequest(equipment_id="hydraulic-rig")] * 40
    explained = [DiagnosisRequest(equipment_id="hydraulic-rig", explain=True)] * 6
    groups = [[index for index, _ in group] for group in groups_of([*plain, *explained])]
    assert [len(group) for group in groups] == [32, 8 + 3, 3]
    assert sorted(chain.from_iterable(groups)) == list(range(46))
