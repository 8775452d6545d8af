"""What the bank's people write around the facts: small talk, guides, notes, other languages, abuse, nonsense."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence

GREETINGS = (
    "",
    "",
    "",
    "Hi, ",
    "Hello. ",
    "Good morning. ",
    "Good afternoon, ",
    "One more thing: ",
    "Also, ",
    "Sorry, another one. ",
    "And: ",
)
ENDINGS = ("", "", "", "", " Thanks.", " Thank you!", " I could not find it.", " Please be quick.", " It is for my sister.", " Cheers.")

SLOTS: Mapping[str, Sequence[str]] = {
    "place": "the train/the office/my kitchen/the airport/a cafe/the library/my car/the garden/a hotel/the gym/a ferry/the market".split(
        "/"
    ),
    "doing": (
        "have only a few minutes/am waiting for a call/hope this is quick/just read your letter/am sorting my papers/am planning a trip/"
        "spoke to a colleague of yours last week/am helping my parents/cannot find my folder/am new to this bank/changed jobs recently/"
        "am about to move house/had no luck on the website/like your new logo"
    ).split("/"),
    "weather": "rainy/sunny/windy/far too hot/icy/foggy/mild/grey/lovely/stormy".split("/"),
    "role": (
        "branch lead/night desk/card team/loan officer/fraud analyst/front desk/training lead/vault clerk/archive team/call centre/"
        "compliance officer/duty manager/mail room/cash desk"
    ).split("/"),
    "verb": "checked/closed/moved/reviewed/updated/printed/reopened/archived/counted/escalated/signed off/postponed/tested/corrected".split(
        "/"
    ),
    "object": (
        "incident list/key register/queue display/complaints folder/training plan/cash report/visitor log/alarm test/letter templates/"
        "holiday rota/coin machine/appointment book/meeting room booking/stationery order/door camera/feedback box"
    ).split("/"),
    "when": (
        "before opening/after lunch/early in the morning/at closing time/during the quiet hour/on the way to the vault/twice today/"
        "right after the briefing/late in the evening/while the system was slow/between two appointments"
    ).split("/"),
    "reason": (
        "the audit is near/two colleagues are ill/the printer broke again/a customer asked for it/the old list was wrong/"
        "the supplier called/head office wants a summary/the numbers did not add up/the lift is being repaired/a parcel arrived late/"
        "the new trainee needed practice/the weekly figures are due/the shutters got stuck"
    ).split("/"),
    "tool": "the app/the website/the branch terminal/the kiosk/the call centre/the letter form/the chat/the secure mailbox".split("/"),
    "item": "letter/receipt/photo of the form/screenshot/reference/signed copy/short description/list of dates".split("/"),
    "feel": "relieved/confused/curious/in a hurry/patient/surprised/worried/cheerful/undecided/impressed".split("/"),
}
SMALL_TALK = (
    "I am writing from {place} and I {doing}.",
    "It is {weather} here and I {doing}.",
    "I am a little {feel} today because I {doing}.",
    "Before we start: I {doing}, and I am sitting in {place}.",
    "I tried {tool} first, but I am {feel} now.",
    "Can you still see me? I lost the connection in {place}. It is {weather} outside.",
    "I sent you a {item} through {tool} and I am {feel} about it.",
    "A friend told me to use {tool}. I {doing}.",
)
AGENT_TALK = (
    "No problem at all, I am here from {place} today.",
    "Thank you for waiting. It is {weather} here as well.",
    "Of course. If the line drops, use {tool} and send a {item}.",
    "I understand that you are {feel}. Let us look at it.",
    "Welcome. The {role} says hello too.",
    "Good to hear from you. What can I do for you?",
    "Sure, take your time, the queue is short {when}.",
    "Thanks, the {role} {verb} the {object} {when}, so I am free now.",
)
AGENT_NOTED = (
    "Thank you, I have noted that.",
    "Thanks, I found your profile with it.",
    "Got it. The {role} will see it too.",
    "That matches what we have. How can I help?",
    "Thank you, I have put it in the {object}.",
    "Perfect, I see it here. Please go on.",
)
CLOSINGS = (
    ("That is all, I am {feel}. Bye.", "Goodbye, and thank you for calling from {place}."),
    ("Great, I will use {tool} next time.", "You are welcome. The {role} is there too."),
    ("Perfect, thanks for your help. It is {weather}, enjoy the day.", "Thank you, the same to you."),
    ("I will send the {item} later.", "Wonderful, {tool} is best for it."),
)
NOTE_SENTENCES = (
    "The {role} {verb} the {object} {when} because {reason}.",
    "Please note that the {object} was {verb} by the {role}; {reason}.",
    "Since {reason}, the {role} asks everybody to bring a {item} {when}.",
    "A visitor wrote through {tool} and was {feel}, as {reason}.",
    "We agreed {when} that the {role} and the {role2} share the {object}.",
    "Tomorrow the {role} starts {when}; the {object} stays with the {role2}.",
    "The {object} is missing a {item}, and {reason}.",
    "Somebody left a {item} near the {object}, the {role} {verb} it {when}.",
    "Feedback from {tool}: people are {feel} about the {object} because {reason}.",
    "It was {weather} {when}, so few people came and the {role} {verb} the {object}.",
)
NOTE_TITLES = ("Shift handover", "Branch diary", "Team note", "Desk log", "Minutes", "Reminder", "Weekly round", "Back office note")
TOPICS = (
    "Keeping your account safe",
    "Reporting a lost card",
    "Moving to a new address",
    "Sending a complaint",
    "Visiting a branch",
    "Using the mobile app",
    "Preparing for a trip",
    "Helping a relative",
)
GUIDE_SENTENCES = (
    "Start in {tool} and keep a {item} at hand, as the {role} may ask for it.",
    "The {role} will confirm every step, usually {when}.",
    "If you are {feel}, stop and write to us through {tool} instead.",
    "Never read a code to a caller, even if the caller claims to be the {role}.",
    "Bring a {item} to the branch, where the {role} has {verb} your case.",
    "You can finish the form in {place}; it is saved in {tool}.",
    "Our {role} looks at each {item} {when}, so an answer may take a little.",
    "When {reason}, we tell you in {tool} and move your appointment.",
    "Please check the {object} at the entrance, which the {role} {verb} {when}.",
    "Many customers do this from {place}, and most are {feel} about how short it is.",
    "Do not send a {item} by ordinary mail; {tool} is safer.",
    "After that the {role} {verb} the request, and you receive a {item}.",
    "People who are {feel} can ask the {role} for a call {when}.",
    "Write down what happened, where you were, for example in {place}, and what you saw.",
)
MENU = "Home Products Branches Careers Press Login Contact Sitemap Privacy Imprint Accessibility Newsletter Security Community".split()
COOKIES = (
    "We use cookies to improve your experience. Accept all cookies or change your settings.",
    "This site stores cookies on your device. By clicking Accept you agree to our cookie policy.",
    "Cookies help us to run this page. Manage preferences. Reject all.",
)
FOOTERS = (
    "All rights reserved. Terms of use. Privacy notice. Follow us on social media.",
    "Copyright the bank. Member of the deposit protection scheme. Imprint. Sitemap.",
    "Subscribe to our newsletter. Share this page. Print this page. Back to top.",
)
FOREIGN: Mapping[str, Sequence[str]] = {
    "de": (
        "Der Kunde hat gestern in der Filiale nach den neuen Formularen gefragt und war sehr freundlich.",
        "Bitte bringen Sie zum Termin einen gültigen Ausweis und die letzten drei Kontoauszüge mit.",
        "Wir haben die Unterlagen an die zuständige Abteilung weitergeleitet und warten auf eine Antwort.",
        "Wegen des Feiertags bleibt der Schalter am Montag geschlossen, der Automat funktioniert aber.",
        "Die Kollegin am Empfang hat den Schlüssel übernommen und im Kalender eingetragen.",
        "Leider konnte die Überweisung nicht ausgeführt werden, weil die Angaben unvollständig waren.",
        "Können Sie mir bitte sagen, wann ich mit der Lieferung meiner Karte rechnen darf?",
        "Nach der Umstellung der Software dauert die Anmeldung am Morgen etwas länger als gewohnt.",
        "Der Aufzug wird in der kommenden Woche repariert, bis dahin nutzen wir die Treppe.",
        "Vielen Dank für Ihre Geduld, wir melden uns so bald wie möglich bei Ihnen.",
    ),
    "fr": (
        "Le client a demandé hier à l'agence où se trouvaient les nouveaux formulaires.",
        "Veuillez apporter une pièce d'identité valable et vos trois derniers relevés au rendez-vous.",
        "Nous avons transmis le dossier au service compétent et nous attendons sa réponse.",
        "Le guichet reste fermé lundi à cause du jour férié, mais le distributeur fonctionne.",
        "La collègue de l'accueil a repris la clé et l'a notée dans le calendrier.",
        "Malheureusement, le virement n'a pas pu être exécuté parce que les données étaient incomplètes.",
        "Pourriez-vous me dire quand je recevrai ma nouvelle carte à la maison ?",
        "Depuis le changement de logiciel, la connexion du matin dure un peu plus longtemps.",
        "L'ascenseur sera réparé la semaine prochaine, nous prenons donc l'escalier.",
        "Merci beaucoup de votre patience, nous vous rappellerons dès que possible.",
    ),
    "es": (
        "El cliente preguntó ayer en la sucursal dónde estaban los nuevos formularios.",
        "Por favor, traiga un documento de identidad válido y los tres últimos extractos a la cita.",
        "Hemos enviado los papeles al departamento responsable y esperamos su respuesta.",
        "La ventanilla permanece cerrada el lunes por ser festivo, pero el cajero funciona.",
        "La compañera de recepción se quedó con la llave y la apuntó en el calendario.",
        "Lamentablemente, la transferencia no se pudo realizar porque faltaban algunos datos.",
        "¿Podría decirme cuándo llegará mi nueva tarjeta a casa?",
        "Desde el cambio de programa, el inicio de sesión por la mañana tarda un poco más.",
        "El ascensor se reparará la semana que viene, mientras tanto usamos la escalera.",
        "Muchas gracias por su paciencia, le llamaremos lo antes posible.",
    ),
}
TOXIC = (
    "You are a bunch of idiots and this is complete bullshit.",
    "What the hell is wrong with you, you stupid morons?",
    "This bank is shit and so are you.",
    "I am sick of this crap, you useless bastards.",
    "Shut up, you dumb ass, and do your damn job.",
    "Are you fucking kidding me? This is pathetic, you clowns.",
    "Go to hell with your bloody forms, you stupid jerk.",
    "You lazy bastard, stop wasting my time with this bullshit.",
    "I hate you, you disgusting piece of crap.",
    "Kiss my ass, you incompetent idiot.",
)


def fill(r: random.Random, template: str) -> str:
    """`template` with every slot filled at random."""
    values = {name: r.choice(options) for name, options in SLOTS.items()}
    return template.format(role2=r.choice(SLOTS["role"]), **values)


def paragraph(r: random.Random, templates: Sequence[str], n: int) -> str:
    return " ".join(fill(r, template) for template in r.sample(templates, n))


def guide_paragraphs(r: random.Random, topic: str, n: int) -> tuple[str, ...]:
    """`n` paragraphs of a procedure about `topic`."""
    lead = f"{topic}: " + fill(r, "this page is for everybody who is {feel} and prefers {tool}.")
    templates = r.sample(GUIDE_SENTENCES, len(GUIDE_SENTENCES))
    return (lead, *(" ".join(fill(r, t) for t in templates[i::n][:4]) for i in range(n)))


def foreign_passage(r: random.Random, language: str, n: int) -> str:
    return " ".join(r.sample(FOREIGN[language], n))


def gibberish(r: random.Random) -> str:
    """Text that nobody can read: random letters, one token again and again, or a soup of symbols."""
    kind = r.randrange(3)
    if kind == 0:
        return " ".join("".join(r.choices(string.ascii_lowercase, k=r.randint(3, 14))) for _ in range(r.randint(30, 60)))
    if kind == 1:
        return " ".join([r.choice(("lorem", "test", "asdf", "xx", "blah")) + str(r.randint(1, 9))] * r.randint(40, 80))
    return "".join(r.choices("#$%&*+-/<=>@^_|~{}[]\\" + string.digits + " ", k=r.randint(200, 400)))
