"""Personal data: what is found, what is left alone, and that scrubbing is complete and stable."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pipeline.curation.pii import PiiPolicy, load_policy, scan_texts, validators
from llm_pipeline.curation.pii.finders import finders
from llm_pipeline.curation.pii.identifiers import IDENTIFIERS
from llm_pipeline.curation.pii.policy import ENTITIES
from llm_pipeline.curation.pii.windows import Finder, Found, windows
from llm_pipeline.errors import ConfigError

POLICY = load_policy()
FOUND = [
    ("EMAIL_ADDRESS", "write to maria.garcia+bank@mail.example.co.uk today", "maria.garcia+bank@mail.example.co.uk"),
    ("PHONE_NUMBER", "reach me at +44 20 7946 0958 please", "+44 20 7946 0958"),
    ("PHONE_NUMBER", "or (555) 123-4567 x12.", "(555) 123-4567 x12"),
    ("CREDIT_CARD", "paid with 4111 1111 1111 1111.", "4111 1111 1111 1111"),
    ("IBAN_CODE", "to GB29 NWBK 6016 1331 9268 19 thanks", "GB29 NWBK 6016 1331 9268 19"),
    ("US_SSN", "the SSN is 536-22-8726.", "536-22-8726"),
    ("UK_NINO", "NINO AB 12 34 56 C", "AB 12 34 56 C"),
    ("UK_NHS", "my NHS number is 943 476 5919", "943 476 5919"),
    ("PASSPORT", "my passport number is 533401234", "533401234"),
    ("IP_ADDRESS", "a login from 203.0.113.77 and", "203.0.113.77"),
    ("IP_ADDRESS", "from 2001:db8:85a3::8a2e:370:7334 and", "2001:db8:85a3::8a2e:370:7334"),
    ("MAC_ADDRESS", "router 00:1B:44:11:3A:B7.", "00:1B:44:11:3A:B7"),
    ("URL_CREDENTIALS", "at https://bob:hunter2@files.example/x.", "https://bob:hunter2@files.example/x"),
    ("CRYPTO", "wallet 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"),
    ("API_KEY", "the key AKIAIOSFODNN7EXAMPLE leaked", "AKIAIOSFODNN7EXAMPLE"),
    ("DATE_OF_BIRTH", "I was born on 12 March 1985.", "12 March 1985"),
    ("STREET_ADDRESS", "I live at 742 Evergreen Terrace, Springfield, IL 62704.", "742 Evergreen Terrace, Springfield, IL 62704"),
    ("STREET_ADDRESS", "wohne in der Gartenstraße 12, 80331 München.", "Gartenstraße 12, 80331 München"),
    ("PERSON", "yesterday Maria Garcia called", "Maria Garcia"),
    ("PERSON", "my name is john smith, hello", "john smith"),
    ("BANK_ACCOUNT", "the account number is 12345678.", "12345678"),
    ("US_ITIN", "her ITIN reads 912-70-1234, I think", "912-70-1234"),
    ("DRIVER_LICENCE", "my driving licence MORGA657054SM9IJ expires", "MORGA657054SM9IJ"),
    ("NATIONAL_ID", "Mi DNI es 54362315K.", "54362315K"),
    ("NATIONAL_ID", "codice fiscale RCCMNL83S18D969H", "RCCMNL83S18D969H"),
    ("NATIONAL_ID", "PESEL: 44051401458", "44051401458"),
    ("NATIONAL_ID", "mi NIF, 54.362.315-K, caduca", "54.362.315-K"),
    ("NATIONAL_ID", "codice fiscale RCC MNL 83S18 D969H", "RCC MNL 83S18 D969H"),
    ("CREDIT_CARD", "paid with 4111\u00a01111\u00a01111\u00a01111.", "4111\u00a01111\u00a01111\u00a01111"),
    ("PHONE_NUMBER", "bis bald,\nT: 0711/2089029", "0711/2089029"),
    ("PHONE_NUMBER", "the box office, 212-555-0187, is open", "212-555-0187"),
    ("DATE_OF_BIRTH", '{"birthDate": "1985-03-12", "since": "2020-01-01"}', "1985-03-12"),
    ("API_KEY", "user: root, password: gr8Wh1te", "gr8Wh1te"),
    ("STREET_ADDRESS", "wohnt Am Neuen Teich 7 a, 80331 München.", "Am Neuen Teich 7 a, 80331 München"),
    ("STREET_ADDRESS", "en Calle Mayor 12, 3º B, 28013 Madrid.", "Calle Mayor 12, 3º B, 28013 Madrid"),
    ("STREET_ADDRESS", "at 9 Foxglove Ridge Ct, Suite 4, Salem, OR 97301.", "9 Foxglove Ridge Ct, Suite 4, Salem, OR 97301"),
    ("PERSON", "as Prof. Dr. Weidner said", "Weidner"),
    ("PERSON", "Guest: ROBERTO CASTELLI", "ROBERTO CASTELLI"),
    ("PERSON", "| Castelli, Roberto | 12 |", "Castelli, Roberto"),
    ("PERSON", "proved by R. J. Thompson in May", "R. J. Thompson"),
    ("PERSON", "hallo, ich bin roberto.", "roberto"),
    ("PERSON", "Please call back before noon. Roberto", "Roberto"),
    ("PERSON", "[10:17] Roberto: it rains", "Roberto"),
    ("PERSON", "lol my cousin roberto never came", "roberto"),
    ("PERSON", "did martina castelli call?", "martina castelli"),
    ("PERSON", "nobody else took Roberto's umbrella", "Roberto"),
    ("PERSON", "that was kind, Roberto!", "Roberto"),
    ("PERSON", '{"familyName": "Black", "beds": 2}', "Black"),
    ("PERSON", "Deponent Jean-Luc d'Aumont swears", "Jean-Luc d'Aumont"),
    ("PERSON", "seen by María Teresa de la Vega yesterday", "María Teresa de la Vega"),
    ("PERSON", "Customer Мария Волкова called", "Мария Волкова"),
    ("PERSON", "a letter for Castelli, Roberto.", "Castelli, Roberto"),
    ("PERSON", "a chat that Mark Price began", "Mark Price"),
    ("PERSON", "present: Castelli, Roberto (Chair)", "Castelli, Roberto"),
    ("PERSON", "note: Martin, Roberto, DOB unknown", "Martin, Roberto"),
    ("PERSON", "full name roberto castelli dob unknown", "roberto castelli"),
    ("PERSON", "@roberto can you look?", "roberto"),
    ("PERSON", "Roberto from Kestrel rang", "Roberto"),
    ("PERSON", "llamó la señora Castelli ayer", "Castelli"),
    ("PERSON", "it does not match surname Castelli", "Castelli"),
    ("PERSON", "Roberto,\n\nI rang them", "Roberto"),
    ("PERSON", "not the new one, thx, roberto", "roberto"),
    ("US_SSN", "id,ssn,left\n7,536-22-8726,2024-06-15", "536-22-8726"),
    ("DATE_OF_BIRTH", "the goalkeeper (b. 12/05/1969) and the coach", "12/05/1969"),
    ("NATIONAL_ID", "SteuerID;weg\n86095742719;2019-01-25", "86095742719"),
    ("IP_ADDRESS", "the server 8.8.4.4 answered", "8.8.4.4"),
    ("IP_ADDRESS", "firmware 4.2.81 on WAN 198.51.100.23 since May", "198.51.100.23"),
    ("MAC_ADDRESS", "ether 0012.3456.7890 up", "0012.3456.7890"),
    ("API_KEY", "mot de passe: Tr0mpette", "Tr0mpette"),
    ("API_KEY", "the passcode was changed to blau-7-wal today", "blau-7-wal"),
    ("API_KEY", "login: root / Wal#7blau", "Wal#7blau"),
    ("API_KEY", "sshpass -p 'wal-7-blau' ssh root@host", "wal-7-blau"),
    ("NATIONAL_ID", "personnr 811218-9876 saknas", "811218-9876"),
    ("NATIONAL_ID", "Rentenversicherungsnummer 65 170839 J 003 fehlt", "65 170839 J 003"),
    ("NATIONAL_ID", "her national identity number 44051401359 was on it", "44051401359"),
    ("NATIONAL_ID", "SIN 046 454 286 on the slip", "046 454 286"),
    ("US_SSN", "somebody wrote 536 22 8726 on it", "536 22 8726"),
    ("US_ITIN", "it says 912-70-1234 here", "912-70-1234"),
    ("UK_NINO", "leaver: ab 123456 c, March", "ab 123456 c"),
    ("PHONE_NUMBER", "Elm House\n0571340021\nsince May", "0571340021"),
    ("PHONE_NUMBER", "puoi chiamarmi o llamarme al 601 549 800.", "601 549 800"),
    ("CREDIT_CARD", "id,card,paid\n7,4111 1111 1111 1111,304.39", "4111 1111 1111 1111"),
    ("BANK_ACCOUNT", "RIB : 30004 00031 00001234567 43", "30004 00031 00001234567 43"),
    ("DATE_OF_BIRTH", "urodzona 4 marca 1985 w Gdyni", "4 marca 1985"),
    ("STREET_ADDRESS", "it went to 418 El Camino Real, Salem, OR 97301", "418 El Camino Real, Salem, OR 97301"),
    ("IP_ADDRESS", "cannot reach 2001:db8:7::a1b2: no route", "2001:db8:7::a1b2"),
    ("IP_ADDRESS", "no answer of 2001:db8:1:2:3:4:5:77: closed", "2001:db8:1:2:3:4:5:77"),
    ("UK_NINO", "HMRC reference CE 20 30 41 B", "CE 20 30 41 B"),
    ("US_SSN", "ss# 536228726 of the tenant", "536228726"),
    ("US_ITIN", "her W-7 came back with 912701234", "912701234"),
    ("DRIVER_LICENCE", "van rental, licence 1: QUIMB803129AB7XY", "QUIMB803129AB7XY"),
    ("DRIVER_LICENCE", '{"license": "WDLABCD12345"}', "WDLABCD12345"),
    ("NATIONAL_ID", "numéro national : 85.07.30-033.28", "85.07.30-033.28"),
    ("API_KEY", "The password for the guest wifi: Wal7blau", "Wal7blau"),
    ("API_KEY", "la contraseña de la alarma es Ballena77", "Ballena77"),
    ("API_KEY", "mot de passe provisoire de l’imprimante : Baleine77", "Baleine77"),
    ("API_KEY", "api_key=Xqwrtzpkm7Hb4Lq0R&page=2", "Xqwrtzpkm7Hb4Lq0R"),
    ("API_KEY", "AWS_SECRET_ACCESS_KEY=QbVxWzkTRpLmNcYs/HdGfJqXvBnM+KwZtPrLscF7", "QbVxWzkTRpLmNcYs/HdGfJqXvBnM+KwZtPrLscF7"),
    ("PHONE_NUMBER", "WhatsApp: 71234 56789", "71234 56789"),
    ("PHONE_NUMBER", "txt me at 2125550187", "2125550187"),
    ("PHONE_NUMBER", "Sales\nM 601 54 98 00\nKestrel", "601 54 98 00"),
    ("PHONE_NUMBER", "Te1:  2125550187", "2125550187"),
    ("PHONE_NUMBER", "T e l . :  0571340021", "0571340021"),
]
PUBLIC = [
    "The monthly fee of the Harbor Current Account is $4.50 and the limit is $1,234.50.",
    "Support hours: 8:00 to 18:30, on weekdays, 24 business days, 12.45%, 15 transfers per month.",
    "Jasper Home Loan, Iris Savings Account and Hazel Credit Card are new since 2026-01-08.",
    "Python 3.11.4 and version 2.31.0.1 read 1000000 rows in 0.25 seconds, order 1234567890.",
    "Thank you for waiting. Good morning, Agent. Dear Customer, welcome to the Summit Student Account.",
    "The account was closed after 24 months; call us before noon with a passcode.",
    "Part 0212-555-019 is back; rollback of 4.3.16.2 done, builds before 2.7.18.3 too.",
    "212 555 0187 | 646 555 0123\n917 555 0199 | 332 555 0144",
    "Two Granny Smith apples, a Shirley Temple and Dr. Pepper; then home past St. James's Park.",
    "sku;name;price\n11;Tommy Hilfiger;39.90\n12;Baker;19.90",
    "password = os.environ['PASSWORD'], token=None, secret: <your-secret>",
    "Clone git@github.com:kestrel/docs.git; needs at least 1.8.15.25.",
    "Listening on 127.0.0.1 and 0.0.0.0, 2024-12-31 23:59:59.",
    "12-03-24 20240312 ok; moved 204577 83920174 rows, 10 Broadway shows, statement 017128642 of the account.",
    "Johnson & Johnson and Harvey Nichols opened in Jackson Hole; the given URI is valid, said nobody.",
    "IBAN DE89 3704 0044 0532 0130 01 has a typo; std::abc::def: unknown; the driver's papers: case no. W20417763.",
    "The password for the 3 accounts is the same: the one of the router is on the box, that of the door is due in 2 days.",
    "Last name Required, surname Optional; trains from Lincoln to Madison; Morgan Stanley said; Ben & Jerry's new one; señor Presidente.",
    "@media screen and (width: 3px); M 1234567 and M 1200 300 are bolts; Poison Ivy, Victoria and Albert Museum.",
    "A password is hashed with SHA-512; the passcode has 6-8 digits, the password was reset to default; login: kiosk / guest.",
]


@pytest.mark.parametrize(("entity", "text", "value"), FOUND)
def test_finds_each_type_exactly(entity: str, text: str, value: str) -> None:
    spans = scan_texts([text], POLICY)
    assert [(span.entity, text[span.start : span.end]) for span in spans] == [(entity, value)]


def test_every_declared_type_has_an_example() -> None:
    assert {entity for entity, _, _ in FOUND} == set(ENTITIES) - {"ORGANISATION"}, "organisations need a model"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("SSN 536-22-8726 / loan 475537853 / fee 12", ["536-22-8726"]),
        ("born 12 March 1985, admitted 3 May 2021", ["12 March 1985"]),
        ("driving licence MORGA657054SM9IJ, tel +1 212 555 0187", ["MORGA657054SM9IJ", "+1 212 555 0187"]),
        ("SEPA mandate 4790121220 / debtor account DK5000400440116243", ["DK5000400440116243"]),
        ("cards 4111111111111111 and 5500005555555559", ["4111111111111111", "5500005555555559"]),
        ("born 12 March 1985, not 13.03.1985", ["12 March 1985", "13.03.1985"]),
        ("pay 20-45-77, 83920174 or the voided cheque's 021000021 and 4839201744", ["20-45-77", "83920174", "021000021", "4839201744"]),
        ("firmware 8.0.8.8391: passport 533401234", ["533401234"]),
        ("Lloyds - 20 45 77 - 83920174", ["20 45 77", "83920174"]),
        ("my number is 2125550187, again that's 2125550188", ["2125550187", "2125550188"]),
        ("INV-4071-5512: a driver licence and passport 533401234", ["533401234"]),
        ("api-key: Xq7wRtz4pKm7Hb4LqZ\ntrace-id: 7c9e6679-7425-40de-944b-e07fc1f90ae7", ["Xq7wRtz4pKm7Hb4LqZ"]),
    ],
)
def test_a_word_speaks_of_one_value_or_of_a_list(text: str, values: list[str]) -> None:
    assert [text[span.start : span.end] for span in scan_texts([text], POLICY)] == values


@pytest.mark.parametrize(
    "text", ["visa;passport\n1;533401234\n2;533401235", "INSERT INTO t (visa, passport) VALUES (1, '533401234'), (2, '533401235')"]
)
def test_the_head_of_a_table_speaks_of_its_columns(text: str) -> None:
    spans = scan_texts([text], POLICY)
    assert [(span.entity, text[span.start : span.end]) for span in spans] == [("PASSPORT", "533401234"), ("PASSPORT", "533401235")]


def test_a_column_of_names_has_names_that_are_words_too() -> None:
    text = "id,surname,bed\n1,Baker,3\n2,Park,9\n"
    assert [text[span.start : span.end] for span in scan_texts([text], POLICY)] == ["Baker", "Park"]


def test_all_of_an_enumeration_are_names() -> None:
    text = "for Roberto, Martina and Giulia"
    assert [text[span.start : span.end] for span in scan_texts([text], POLICY)] == ["Roberto", "Martina", "Giulia"]
    text = "two of them, Roberto and Martina Castelli."
    assert [text[span.start : span.end] for span in scan_texts([text], POLICY)] == ["Roberto", "Martina Castelli"]


@pytest.mark.parametrize("text", PUBLIC)
def test_leaves_public_facts_alone(text: str) -> None:
    assert [(span.entity, text[span.start : span.end]) for span in scan_texts([text], POLICY)] == []


def test_every_identifier_can_be_checked() -> None:
    assert not any(kind.score("12", 0) > 1 for kind in IDENTIFIERS), "asks each for its check digits, so that a missing module shows"


def test_checksums() -> None:
    assert validators.card("4111 1111 1111 1111")
    assert not validators.card("4111 1111 1111 1112")
    assert not validators.card("1111 1111 1111 1117"), "no scheme"
    assert validators.iban("DE89370400440532013000")
    assert not validators.iban("DE89370400440532013001")
    assert validators.wallet("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4")
    assert not validators.wallet("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t5")
    assert validators.wallet("LVg2kJoFNg45Nbpy53h7Fe1wKyeXVRhMH9")
    assert not validators.wallet("LVg2kJoFNg45Nbpy53h7Fe1wKyeXVRhMH8")


pieces = st.lists(
    st.one_of(
        st.sampled_from([text for _, text, _ in FOUND] + [value for _, _, value in FOUND] + PUBLIC),
        st.sampled_from(["passport", "account", "IBAN_CODE", "born", "phone", "Dr. ", "Dear ", "card", "SSN", "NHS", "token", *"\n,-.(+"]),
        st.text(alphabet="0123456789 -.()+:/@#aAbBéÜßx", max_size=18),
    ),
    max_size=9,
)


@settings(max_examples=60, deadline=None)
@given(pieces)
def test_prefilter_is_a_superset_of_the_matchers(parts: list[str]) -> None:
    """What a finder sees in a whole text lies in one of its windows, or of another that sees it too."""
    everything = finders(POLICY)
    for text in (" ".join(parts), "".join(parts)):
        looked_at = [(finder, low, high) for finder, _, low, high in windows(everything, [text])]
        seen: dict[Found, list[Finder]] = {}
        for finder in everything:
            for hit in finder.find(text, 0, len(text)):
                seen.setdefault(hit, []).append(finder)
        for hit, who in seen.items():
            assert any(finder in who and low <= hit[0] and hit[1] <= high for finder, low, high in looked_at), (hit, text)


@settings(max_examples=30, deadline=None)
@given(st.lists(pieces.map(" ".join), min_size=1, max_size=5))
def test_windows_of_a_text_are_the_same_alone_and_among_others(texts: list[str]) -> None:
    everything = finders(POLICY)
    among = sorted((i, everything.index(finder), low, high) for finder, i, low, high in windows(everything, texts))
    alone = [
        sorted((i, everything.index(finder), low, high) for finder, _, low, high in windows(everything, [text]))
        for i, text in enumerate(texts)
    ]
    assert among == [place for places in alone for place in places]


def test_an_allowed_text_is_public() -> None:
    assert scan_texts(["write to help@bank.example"], PiiPolicy(allow=("help@bank.example",))) == []


def test_an_unknown_entity_names_the_near_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'EMAIL_ADDRESS'"):
        PiiPolicy(modes={"EMIAL_ADDRESS": "mask"})
