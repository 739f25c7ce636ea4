"""A telephone made of pjsua2: orders on standard input, events on standard output, a line each.

    pjsua.py ADDRESS PORT TRANSPORT FOLDER [srtp]

It takes every call, speaks FOLDER/speech.wav over and over and writes what it hears to FOLDER/heard-N.wav. Orders:
`dial URI`, `hold` (by re-INVITE), `resume` (by UPDATE), `transfer URI` (by REFER), `hangup`. Events: CALL_ESTABLISHED, `CALL_CLOSED code`,
`FAILED order reason`. With `srtp` it speaks and takes nothing else. Over TLS it shows FOLDER/identity.pem and believes who FOLDER/ca.pem signed.
"""

import os
import select
import sys

import pjsua2 as pj

ADDRESS, PORT, TRANSPORT, FOLDER = sys.argv[1:5]
SECURE = TRANSPORT == "tls"


def say(*words):
    print(*words, flush=True)


class Conversation(pj.Call):
    number = 0

    def __init__(self, account, call_id=pj.PJSUA_INVALID_ID):
        super().__init__(account, call_id)
        Conversation.number += 1
        self.speech = pj.AudioMediaPlayer()
        self.speech.createPlayer(os.path.join(FOLDER, "speech.wav"))
        self.recorder = pj.AudioMediaRecorder()
        self.recorder.createRecorder(os.path.join(FOLDER, f"heard-{Conversation.number}.wav"))

    def onCallState(self, _):
        info = self.getInfo()
        if info.state == pj.PJSIP_INV_STATE_CONFIRMED:
            say("CALL_ESTABLISHED")
        elif info.state == pj.PJSIP_INV_STATE_DISCONNECTED:
            say("CALL_CLOSED", int(info.lastStatusCode))
            # Not now: the library still uses the object that calls us.
            account.over = self
            account.calls.remove(self)

    def onCallTransferRequest(self, request):
        # The library places the call, and wants an object for it.
        request.newCall = account.keep(Conversation(account))

    def onCallMediaState(self, _):
        # What is in it lives as long as it does.
        info = self.getInfo()
        for at, media in enumerate(info.media):
            if media.type == pj.PJMEDIA_TYPE_AUDIO and media.status == pj.PJSUA_CALL_MEDIA_ACTIVE:
                line = self.getAudioMedia(at)
                self.speech.startTransmit(line)
                line.startTransmit(self.recorder)


class Telephone(pj.Account):
    """It obeys for the newest of its calls."""

    over = None

    def __init__(self):
        super().__init__()
        self.calls = []

    def keep(self, call):
        self.calls.append(call)
        return call

    def onIncomingCall(self, incoming):
        call = self.keep(Conversation(self, incoming.callId))
        answer = pj.CallOpParam(True)
        answer.statusCode = pj.PJSIP_SC_OK
        call.answer(answer)

    def obey(self, order, *words):
        change = pj.CallOpParam(True)
        if order == "dial":
            self.keep(Conversation(self)).makeCall(f"{words[0]};transport={TRANSPORT}", change)
        elif order == "hold":
            self.calls[-1].setHold(change)
        elif order == "resume":
            change.opt.flag = pj.PJSUA_CALL_UNHOLD
            self.calls[-1].update(change)
        elif order == "transfer":
            self.calls[-1].xfer(f"<{words[0]}>", change)
        elif order == "hangup":
            self.calls[-1].hangup(change)


def endpoint():
    made = pj.Endpoint()
    made.libCreate()
    settings = pj.EpConfig()
    settings.uaConfig.threadCnt = 0
    settings.uaConfig.mainThreadOnly = True
    settings.logConfig.level = 5
    settings.logConfig.consoleLevel = 0
    settings.logConfig.filename = os.path.join(FOLDER, "pjsua.log")
    settings.medConfig.clockRate = 8000
    settings.medConfig.sndClockRate = 8000
    settings.medConfig.ecTailLen = 0
    settings.medConfig.noVad = True
    settings.medConfig.sndAutoCloseTime = -1
    made.libInit(settings)
    made.audDevManager().setNullDev()
    for codec in made.codecEnum2():
        made.codecSetPriority(codec.codecId, 255 if codec.codecId.startswith("PCMU/8000") else 0)
    made.transportCreate(kind(), transport())
    made.libStart()
    return made


def kind():
    return {
        "udp": pj.PJSIP_TRANSPORT_UDP,
        "tcp": pj.PJSIP_TRANSPORT_TCP,
        "tls": pj.PJSIP_TRANSPORT_TLS,
    }[TRANSPORT]


def transport():
    settings = pj.TransportConfig()
    settings.port = int(PORT)
    settings.boundAddress = ADDRESS
    if SECURE:
        settings.tlsConfig.CaListFile = os.path.join(FOLDER, "ca.pem")
        settings.tlsConfig.certFile = os.path.join(FOLDER, "identity.pem")
        settings.tlsConfig.privKeyFile = os.path.join(FOLDER, "identity.pem")
        settings.tlsConfig.verifyServer = True
    return settings


def line():
    settings = pj.AccountConfig()
    settings.idUri = f"sip:pjsua@{ADDRESS}:{PORT}" + ("" if TRANSPORT == "udp" else f";transport={TRANSPORT}")
    settings.mediaConfig.transportConfig.boundAddress = ADDRESS
    settings.mediaConfig.transportConfig.port = 40000
    settings.mediaConfig.transportConfig.portRange = 200
    if "srtp" in sys.argv[5:]:
        settings.mediaConfig.srtpUse = pj.PJMEDIA_SRTP_MANDATORY
        settings.mediaConfig.srtpSecureSignaling = 1
    return settings


library = endpoint()
account = Telephone()
account.create(line())
say("READY")
while True:
    library.libHandleEvents(10)
    account.over = None
    if select.select([sys.stdin], [], [], 0)[0]:
        order = sys.stdin.readline().split()
        if not order:
            break
        try:
            account.obey(*order)
        except (pj.Error, IndexError) as error:
            say("FAILED", order[0], error)
library.hangupAllCalls()
library.libDestroy()
