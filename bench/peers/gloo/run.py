"""Times the collectives of torch.distributed over gloo on the CPU, for bench/support/collective-sweep.ts: run.py RANKS [--corrupt].

Rank 0 reads one line "<collective> <bytes> <dtype> <in|out> eager" from stdin for each answer, a line of JSON, and hands it to the other
ranks, processes that it started. As in the bench of heddle's own collectives, inputs are written anew before each call, the time of that is
taken off, and every element of the last results is checked. Whole numbers, so small that sums are exact in any order.
"""
import json
import os
import socket
import subprocess
import sys
import time
import warnings

answers = os.fdopen(os.dup(1), "w", buffering=1)
warnings.simplefilter("ignore")
os.dup2(2, 1)  # whatever a library prints must not mix with the answers
os.environ["OMP_NUM_THREADS"] = "1"  # before torch starts its pool
os.environ["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")

PERIOD = 262139  # a prime: a part that lands in the wrong place shows
BATCH_SECONDS, TOTAL_SECONDS = 2e-3, 0.5
FEWEST_BATCHES, MOST_BATCHES = 3, 31


class Rank:
    def __init__(self, rank, size, port, corrupt):
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        self.torch, self.dist, self.rank, self.size, self.corrupt = torch, dist, rank, size, corrupt
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)

    def close(self):
        self.dist.destroy_process_group()

    def answer(self, line):
        collective, size, dtype, place, mode = line.split()
        if mode != "eager":
            raise ValueError("expected eager, got graph: there are none on a CPU")
        self.prepare(collective, int(size), getattr(self.torch, dtype), place == "in")

        def both():
            self.produce()
            self.call()

        both()
        guess = self.largest(self.seconds(1, 3 if self.bytes < 2**24 else 1, both))  # one for all: every rank calls as often
        turns = max(1, int(BATCH_SECONDS / guess))
        batches = min(MOST_BATCHES, max(FEWEST_BATCHES, int(TOTAL_SECONDS / (turns * guess))))
        produce_only = self.seconds(turns, batches, self.produce)
        both()  # ranks start together
        seconds = self.seconds(turns, batches, both) - produce_only
        if self.corrupt and self.rank == 0:
            self.y[self.y.numel() // 2] += 1
        answer = self.among_all(max(seconds, 0.0), self.count_wrong())
        self.x = self.y = None  # memory for others, who take turns
        return answer

    def prepare(self, collective, size, dtype, in_place):
        torch = self.torch
        element = torch.empty(0, dtype=dtype).element_size()
        count = size // element
        has_parts = collective in ("all_gather", "reduce_scatter")
        self.part = count // self.size // (16 // element) * (16 // element) if has_parts else count
        if self.part == 0:
            raise ValueError(f"expected at least 16 bytes for each rank, got {size}")
        if in_place != (collective == "all_reduce"):
            raise ValueError(f"{collective}: not offered {'in' if in_place else 'out of'} place")
        whole = self.part * self.size if has_parts else self.part
        self.collective, self.dtype, self.bytes = collective, dtype, whole * element
        # 24, 11 and 8 bits of significand
        largest = max(1, {torch.float32: 2**23, torch.float16: 2**10, torch.bfloat16: 2**7}[dtype] // self.size)
        self.numbers = []
        for rank in range(self.size):
            generator = torch.Generator().manual_seed(rank + 1)
            self.numbers.append(torch.randint(-largest, largest + 1, (PERIOD,), generator=generator))
        self.source = self.numbers[self.rank].to(dtype)
        self.x = torch.empty(self.part if collective == "all_gather" else whole, dtype=dtype)
        self.y = self.x if collective == "all_reduce" else torch.empty(self.part if collective == "reduce_scatter" else whole, dtype=dtype)

    def produce(self):
        for start in range(0, self.x.numel(), PERIOD):
            target = self.x[start:start + PERIOD]
            target.copy_(self.source[:target.numel()])

    def call(self):
        dist = self.dist
        if self.collective == "all_reduce":
            dist.all_reduce(self.x)
        elif self.collective == "all_gather":
            dist.all_gather_into_tensor(self.y, self.x)
        elif self.collective == "reduce_scatter":
            dist.reduce_scatter_tensor(self.y, self.x)
        elif self.collective == "send_recv":
            work = [dist.isend(self.x, (self.rank + 1) % self.size), dist.irecv(self.y, (self.rank - 1) % self.size)]
            for one in work:
                one.wait()
        else:
            raise ValueError(f"expected a collective, got {self.collective}")

    @staticmethod
    def seconds(turns, batches, body):
        times = []
        for _ in range(batches):
            start = time.perf_counter()
            for _ in range(turns):
                body()
            times.append((time.perf_counter() - start) / turns)
        return sorted(times)[batches // 2]

    def count_wrong(self):
        wrong = 0
        for start in range(0, self.y.numel(), PERIOD):
            got = self.y[start:start + PERIOD].to(self.torch.float64)
            wrong += int((got != self.expected(start, got.numel())).sum())
        return wrong

    def expected(self, start, count):
        index = self.torch.arange(start, start + count)
        if self.collective == "all_gather":
            whose, at = index // self.part, index % self.part % PERIOD
            return self.torch.stack(self.numbers)[whose, at].to(self.torch.float64)
        if self.collective == "send_recv":
            return self.numbers[(self.rank - 1) % self.size][index % PERIOD].to(self.torch.float64)
        if self.collective == "reduce_scatter":
            index = index + self.rank * self.part
        return sum(numbers[index % PERIOD] for numbers in self.numbers).to(self.torch.float64)

    def largest(self, value):
        all_values = self.torch.tensor([value], dtype=self.torch.float64)
        self.dist.all_reduce(all_values, op=self.dist.ReduceOp.MAX)
        return all_values.item()

    def among_all(self, seconds, wrong):
        slowest = self.largest(seconds)
        total = self.torch.tensor([wrong])
        self.dist.all_reduce(total)
        return {"collective": self.collective, "ranks": self.size, "bytes": self.bytes, "count": self.part,
                "type": str(self.dtype).removeprefix("torch."), "redop": "sum" if "reduce" in self.collective else "none",
                "inPlace": self.x is self.y, "graph": False, "microseconds": slowest * 1e6, "wrong": total.item(),
                "version": self.torch.__version__}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def lead(size, corrupt):
    port = free_port()
    flags = ["--corrupt"] if corrupt else []
    peers = [subprocess.Popen([sys.executable, __file__, str(size), *flags, "--rank", str(rank), str(port)], stdin=subprocess.PIPE, text=True,
                              stdout=subprocess.DEVNULL) for rank in range(1, size)]
    rank = Rank(0, size, port, corrupt)
    for line in sys.stdin:
        for peer in peers:
            peer.stdin.write(line)
            peer.stdin.flush()
        try:
            answer = rank.answer(line)
        except Exception as error:  # what fails, fails alike on every rank: the next question stands
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
    for peer in peers:
        peer.stdin.close()
        peer.wait()
    rank.close()


def follow(rank):
    for line in sys.stdin:
        try:
            rank.answer(line)
        except Exception as error:
            print(f"rank {rank.rank}: {error}", file=sys.stderr)
    rank.close()


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--corrupt"]
    corrupt = "--corrupt" in sys.argv
    if len(arguments) == 4:
        follow(Rank(int(arguments[2]), int(arguments[0]), int(arguments[3]), corrupt))
    else:
        lead(int(arguments[0]), corrupt)


main()
