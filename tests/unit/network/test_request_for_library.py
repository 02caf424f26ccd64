"""A request with names that are no UIDs reaches the library with a UID in their place; everything else stays as it came."""

from __future__ import annotations

import pytest
from pynetdicom.pdu import A_ASSOCIATE_RQ

from dicomnode.network.request import parse_request
from tests.factories.odd_studies import EXPLICIT, MR, OddInstance
from tests.factories.raw_scanner import encode_request


def instance(sop_class: str, syntax: str) -> OddInstance:
    return OddInstance(sop_class, "1.2.3", syntax, "SCANNER", b"", None)


@pytest.mark.parametrize("odd", ["1." + "7" * 63, "", "../../etc/passwd", "1..2", "K\u00d6LN", "1.2\n"])
def test_one_odd_name_costs_its_context_only(odd: str) -> None:
    request = parse_request(
        encode_request([instance(MR, EXPLICIT), instance(odd, EXPLICIT), instance(MR, odd)], "SCANNER")
    )

    pdu = A_ASSOCIATE_RQ()
    pdu.decode(request.for_library("NODE"))

    contexts = [(item.abstract_syntax, item.transfer_syntax) for item in pdu.presentation_context]
    assert contexts[0] == (MR, [EXPLICIT])
    assert contexts[1][0] not in (MR, odd)
    assert contexts[2] == (MR, [contexts[1][0]])
    assert pdu.calling_ae_title.strip() == "SCANNER"
    assert pdu.user_information.implementation_class_uid == "2.25.20261129"
