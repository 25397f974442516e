"""What transformers computes for a checkpoint, for bench/parity: logits, greedy answers, token ids, rendered chats.

One JSON command a line on stdin, one JSON answer a line on stdout; the process stays. Attention is eager and one thread does the work, so
that answers do not depend on the machine.
"""
import copy
import json
import os
import sys

answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # whatever a library prints must not mix with the answers
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import random_models
import torch
import transformers

torch.set_num_threads(1)
torch.set_grad_enabled(False)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


class Reference:
    model = None
    exact = None
    tokenizer = None

    def about(self, _):
        return {"transformers": transformers.__version__, "torch": torch.__version__}

    def open(self, command):
        """The model of a folder in the data type `dtype`, whatever that of its files is; and, exact, its weights of that type in float32."""
        self.model = self.exact = None  # the memory of the one before
        dtype = getattr(torch, command["dtype"])
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            command["folder"], dtype=dtype, attn_implementation="eager", experts_implementation="eager").eval()
        self.exact = self.model if dtype == torch.float32 else copy.deepcopy(self.model).float()
        text = self.model.config.get_text_config()
        return {"modelType": self.model.config.model_type, "vocabSize": text.vocab_size, "headCount": text.num_attention_heads,
                "context": text.max_position_embeddings}

    def logits(self, command):
        """Of every position of a row, written to `file` as float32."""
        model = self.exact if command["exact"] else self.model
        logits = model(input_ids=torch.tensor([command["row"]])).logits[0].float()
        logits.contiguous().numpy().tofile(command["file"])
        return {"positions": logits.shape[0], "vocabSize": logits.shape[1]}

    def greedy(self, command):
        """The row's continuation, token by token; at each the gap between the two best logits, and the log-probability of the best."""
        current, cache = torch.tensor([command["row"]]), None
        tokens, margins, logprobs = [], [], []
        for _ in range(command["count"]):
            out = self.model(input_ids=current, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            logits = out.logits[0, -1].float()
            best = logits.topk(2)
            tokens.append(int(best.indices[0]))
            margins.append(float(best.values[0] - best.values[1]))
            logprobs.append(float(logits.log_softmax(-1)[tokens[-1]]))
            current = best.indices[:1][None]
        return {"tokens": tokens, "margins": margins, "logprobs": logprobs}

    def open_tokenizer(self, command):
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(command["folder"])
        return {"hasChatTemplate": bool(self.tokenizer.chat_template)}

    def encode(self, command):
        """Ids of a text, with and without what the tokenizer adds, and the text that comes back, with and without special tokens."""
        ids = self.tokenizer.encode(command["text"])
        decode = lambda skip: self.tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        return {"ids": ids, "plainIds": self.tokenizer.encode(command["text"], add_special_tokens=False), "text": decode(True),
                "wholeText": decode(False)}

    def chat(self, command):
        """The prompt that the template makes of messages, and its ids."""
        options = dict(add_generation_prompt=command["addGenerationPrompt"])
        text = self.tokenizer.apply_chat_template(command["messages"], tokenize=False, **options)
        return {"text": text, "ids": self.tokenizer.apply_chat_template(command["messages"], return_dict=False, **options)}

    def random_model(self, command):
        """Writes a random checkpoint of a family with an unusual configuration, always the same for a seed."""
        return random_models.write(command["family"], command["seed"], command["folder"])

    def plan(self, command):
        """What the configuration class of a folder's model names for tensor parallelism: of the base model and of its head."""
        config = transformers.AutoConfig.from_pretrained(command["folder"])
        kind = transformers.AutoModelForCausalLM._model_mapping[type(config)]
        return {"base": config.get_text_config().base_model_tp_plan, "head": getattr(kind, "_tp_plan", None),
                "experts": getattr(config.get_text_config(), "base_model_ep_plan", None)}


def main():
    reference = Reference()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(reference, command["do"])(command)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:1000]}
        answers.write(json.dumps(answer) + "\n")


main()
