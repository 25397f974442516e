"""Times Hugging Face transformers for bench/cases/peers.ts.

One JSON command a line on stdin, one JSON answer a line on stdout; the process stays, so that contenders can alternate. With its own tensor
parallelism (load with "ranks"), this process is rank 0 and starts the others, as torchrun would; every command goes to all of them.
"""
import json
import os
import socket
import subprocess
import sys
import time

answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # whatever a library prints must not mix with the answers
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def enter_group(rank, ranks, port):
    """What torchrun sets."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks),
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


class Contender:
    def load(self, command):
        ranks = command.get("ranks", 1)
        os.environ["OMP_NUM_THREADS"] = str(command["threads"])  # before torch starts its pool
        import torch
        import transformers

        torch.set_num_threads(command["threads"])
        torch.set_grad_enabled(False)
        transformers.logging.set_verbosity_error()
        self.torch = torch
        self.device = command.get("device", "cpu")
        self.transformers = transformers
        options = {}
        if ranks > 1:
            from transformers.distributed import DistributedConfig

            options["distributed_config"] = DistributedConfig(tp_plan="auto")
        model = transformers.AutoModelForCausalLM.from_pretrained(command["folder"], dtype=torch.bfloat16, **options).eval()
        self.model = model if ranks > 1 else model.to(self.device)
        self.model.generation_config.eos_token_id = None
        return {"version": transformers.__version__, "torch": torch.__version__, "threads": torch.get_num_threads()}

    def prefill(self, command):
        """Time to the first token, and that token: proof that all contenders run the same model."""
        ids = self.tensor([command["ids"]])
        start = self.now()
        output = self.model(ids, use_cache=True, logits_to_keep=1)
        token = int(output.logits[0, -1].argmax())
        return {"seconds": self.now() - start, "token": token}

    def tensor(self, rows):
        return self.torch.tensor(rows, device=self.device)

    def now(self):
        if self.device == "cuda":
            self.torch.cuda.synchronize()
        return time.perf_counter()

    def decode_batch(self, command):
        """Seconds a step for several sequences, eager, over a cache that grows."""
        output = self.model(self.tensor(command["rows"]), use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        token = output.logits[:, -1].argmax(-1, keepdim=True)
        for step in range(command["skip"] + command["count"]):
            if step == command["skip"]:
                start = self.now()
            output = self.model(token, past_key_values=cache, use_cache=True, logits_to_keep=1)
            token = output.logits[:, -1].argmax(-1, keepdim=True)
        return {"secondsPerStep": (self.now() - start) / command["count"]}

    def decode_compiled(self, command):
        """The same over a static cache, the forward pass compiled: on a GPU to CUDA graphs (mode reduce-overhead)."""
        torch = self.torch
        ids = self.tensor(command["rows"])
        batch, length = ids.shape
        total = command["skip"] + command["count"]
        room = -(-(length + total + 8) // 64) * 64  # whole steps, so that few lengths are compiled
        cache = self.transformers.StaticCache(config=self.model.config, max_batch_size=batch, max_cache_len=room,
                                              device=self.device, dtype=torch.bfloat16)
        if not hasattr(self, "compiled"):
            mode = "reduce-overhead" if self.device == "cuda" else "default"
            self.compiled = torch.compile(self.model.forward, mode=mode, fullgraph=True)
        position = torch.arange(length, device=self.device)
        logits = self.model(ids, past_key_values=cache, cache_position=position, use_cache=True, logits_to_keep=1).logits
        token = logits[:, -1].argmax(-1, keepdim=True).clone()
        position = position[-1:] + 1
        for step in range(total):
            if step == command["skip"]:
                start = self.now()
            if self.device == "cuda":
                torch.compiler.cudagraph_mark_step_begin()
            logits = self.compiled(token, past_key_values=cache, cache_position=position, use_cache=True, logits_to_keep=1).logits
            token = logits[:, -1].argmax(-1, keepdim=True).clone()
            position = position + 1
        return {"secondsPerStep": (self.now() - start) / command["count"]}

    def decode(self, command):
        """Seconds a token, forward by forward over the cache: the loop without generate's own cost."""
        output = self.model(self.tensor([command["ids"]]), use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        token = output.logits[:, -1].argmax(-1, keepdim=True)
        for step in range(command["skip"] + command["count"]):
            if step == command["skip"]:
                start = time.perf_counter()
            output = self.model(token, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            token = output.logits[:, -1].argmax(-1, keepdim=True)
        int(token)
        return {"secondsPerToken": (time.perf_counter() - start) / command["count"]}

    def decode_generate(self, command):
        """Seconds a token by generate(), its prefill taken off through a streamer's time stamps."""
        stamps = []

        class Stamps:
            def put(self, _):
                stamps.append(time.perf_counter())

            def end(self):
                pass

        ids = self.tensor([command["ids"]])
        total = command["skip"] + command["count"] + 1
        self.model.generate(ids, attention_mask=self.torch.ones_like(ids), max_new_tokens=total, min_new_tokens=total,
                            do_sample=False, pad_token_id=0, streamer=Stamps())
        stamps = stamps[1:]  # the first put is the prompt
        return {"secondsPerToken": (stamps[-1] - stamps[command["skip"]]) / (len(stamps) - 1 - command["skip"])}


def start_peers(command):
    """Ranks 1 and up, each a process that gets every command through the process group."""
    port = free_port()
    for rank in range(1, command["ranks"]):
        subprocess.Popen([sys.executable, __file__, str(rank), str(port), json.dumps(command)], stdin=subprocess.DEVNULL)
    enter_group(0, command["ranks"], port)


def share(command):
    """Rank 0's command, or its end, on every rank."""
    import torch.distributed

    box = [command]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def answer_to(contender, command):
    return getattr(contender, command["do"])(command)


def main():
    """Rank 0, or the only one."""
    contender = Contender()
    ranks = 1
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if command["do"] == "load" and command.get("ranks", 1) > 1:
                start_peers(command)
                answer = answer_to(contender, command)
                ranks = command["ranks"]
            else:
                answer = answer_to(contender, share(command) if ranks > 1 else command)
        except Exception as error:  # the bench reports it and goes on without this peer
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
    if ranks > 1:
        share(None)


def follow(rank, port, load):
    """The other ranks: the same calls, whose answers nobody reads. A failure ends the process, and with it the group."""
    enter_group(rank, load["ranks"], port)
    contender = Contender()
    contender.load(load)
    while (command := share(None)) is not None:
        answer_to(contender, command)


if len(sys.argv) > 1:
    follow(int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
else:
    main()
