"""What is measured: a process that waits for its webhook, one that is polled, a slow action."""

from engine.plugins import (
    GovernanceProcess,
    HmacSignature,
    HttpOptions,
    Plugin,
    ProcessStatus,
    Registry,
)


@Registry.plugin
class Measured(Plugin):
    name = "measured"
    config_schema = {"type": "object", "properties": {"upstream": {"type": "string"}}}

    def http_options(self):
        return HttpOptions(base_url=self.config["upstream"])

    def webhook_key(self, request):
        return request.text.partition(" ")[0]

    @Registry.action(slug="slow", description="asks a slow platform")
    async def slow(self):
        return (await self.http.post("/action")).json()


@Registry.plugin
class Signed(Plugin):
    name = "signed"
    config_schema = {"type": "object", "properties": {"secret": {"type": "string"}}}
    webhook_signature = HmacSignature(header="X-Signature", secret="secret")
    webhook_max_bytes = 2**20

    @Registry.webhook_receiver
    def hear(self, request):
        self.log.debug("heard")


@Registry.governance_process
class Keyed(GovernanceProcess):
    name = "keyed"
    plugin_name = "measured"

    def start(self, parameters):
        self.correlation_key = self.id
        self.status = ProcessStatus.PENDING

    def receive_webhook(self, request):
        heard = self.outcome.get("heard", 0) + 1
        number = int(request.text.partition(" ")[2] or heard)
        late = self.outcome.get("out_of_turn", 0) + (number != heard)
        self.outcome = {"heard": heard, "out_of_turn": late}


@Registry.plugin
class Crowded(Plugin):
    name = "crowded"


@Registry.governance_process
class Keyless(GovernanceProcess):
    name = "keyless"
    plugin_name = "crowded"

    def start(self, parameters):
        self.status = ProcessStatus.PENDING

    def receive_webhook(self, request):
        if request.text == self.id:
            self.outcome = {"heard": self.outcome.get("heard", 0) + 1}


@Registry.governance_process
class Polled(GovernanceProcess):
    name = "polled"
    plugin_name = "measured"
    poll_every = 60

    def start(self, parameters):
        self.status = ProcessStatus.PENDING

    async def update(self):
        await self.http.get(f"/poll/{self.id}")
