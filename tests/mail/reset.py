"""Adds an address to an account and resets its password, as a person with a mailbox does: reset.py URL FOLDER"""

import email
import email.policy
import html
import json
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

BASE, FOLDER = sys.argv[1:]
letters = iter(range(1, 100))


def call(path, body, token=None, wanted=200):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"{BASE}/_matrix/client/v3{path}", json.dumps(body).encode(), headers)
    try:
        answer = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        answer = error
    text = answer.read()
    if answer.status != wanted:
        sys.exit(f"{path}: {answer.status} {text.decode()}")
    return json.loads(text)


def next_letter():
    path = os.path.join(FOLDER, str(next(letters)))
    for _ in range(300):
        if os.path.exists(path):
            with open(path, "rb") as file:
                return email.message_from_binary_file(file, policy=email.policy.default)
        time.sleep(0.1)
    sys.exit("no letter came")


def follow(letter):
    """Opens the link and presses the button of the page."""
    link = re.search(r"http\S+", letter.get_content()).group()
    page = urllib.request.urlopen(link, timeout=30).read().decode()
    fields = re.findall(r'name="(\w+)" value="([^"]*)"', page)
    form = urllib.parse.urlencode([(name, html.unescape(value)) for name, value in fields]).encode()
    urllib.request.urlopen(urllib.parse.urljoin(link, "/_chappe/mail/confirm"), form, timeout=30).read()


def request(purpose):
    body = {"email": "alice@example.org", "client_secret": "secret", "send_attempt": 1}
    return {"sid": call(f"/{purpose}/email/requestToken", body)["sid"], "client_secret": "secret"}


auth = {"type": "m.login.dummy"}
alice = call("/register", {"username": "alice", "password": "forgotten", "auth": auth})
proof = request("account/3pid")
letter = next_letter()
assert letter["X-To"] == "alice@example.org" and letter["From"] == "Chappe <chappe@example.org>", letter
assert letter["Subject"] == "Confirmez votre adresse pour localhost", letter["Subject"]
assert "adresse électronique" in letter.get_content(), letter.get_content()
assert letter["Auto-Submitted"] == "auto-generated" and letter["Message-ID"] and letter["Date"], letter
follow(letter)
identifier = {"type": "m.id.user", "user": "alice"}
auth = {"type": "m.login.password", "identifier": identifier, "password": "forgotten"}
call("/account/3pid/add", {**proof, "auth": auth}, alice["access_token"])
print("the address is confirmed")

proof = request("account/password")
follow(next_letter())
begun = call("/account/password", {"new_password": "remembered"}, wanted=401)
auth = {"type": "m.login.email.identity", "session": begun["session"], "threepid_creds": proof}
call("/account/password", {"new_password": "remembered", "auth": auth})
address = {"type": "m.id.thirdparty", "medium": "email", "address": "alice@example.org"}
call("/login", {"type": "m.login.password", "identifier": address, "password": "remembered"})
print("the password is reset")
