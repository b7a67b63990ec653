"""The key-value cache of a conversation in a model of `transformers`, and the attention masks that it calls for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache
from transformers.cache_utils import DynamicLayer

HOLES = 64  # slots of the cache that no row uses before it is packed
ROOM = 64  # slots that a layer has behind its last one when it grows


class Slots(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values ``[rows, heads, slots, width]`` of a layer, with room behind them.

    A new slot copies none of those before it. A layer of `transformers` copies all of them for each token.
    """

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._buffers: tuple[Tensor, Tensor] | None = None
        if keys is not None and values is not None:
            self.lazy_initialization(keys, values)
            self.keys, self.values = keys, values

    def changed(self, change: Callable[[Tensor], Tensor]) -> Slots:
        """A layer of changed keys and values."""
        assert self.keys is not None
        assert self.values is not None
        return Slots(change(self.keys), change(self.values))

    def put(self, other: Slots, rows: Tensor | slice, slots: slice) -> None:
        """Write the keys and values of another layer into these rows and slots."""
        for own, new in ((self.keys, other.keys), (self.values, other.values)):
            assert own is not None
            assert new is not None
            own[rows, :, slots] = new

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add slots; returns the keys and values of all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        assert self.keys is not None
        assert self.values is not None
        used = self.keys.shape[2]
        end = used + key_states.shape[2]
        if self._buffers is None or end > self._buffers[0].shape[2]:
            rooms = [old.new_empty(*old.shape[:2], end + ROOM, old.shape[3]) for old in (self.keys, self.values)]
            for room, old in zip(rooms, (self.keys, self.values), strict=True):
                room[:, :, :used] = old
            self._buffers = (rooms[0], rooms[1])
        for room, new in zip(self._buffers, (key_states, value_states), strict=True):
            room[:, :, used:end] = new
        self.keys, self.values = (room[:, :, :end] for room in self._buffers)
        return self.keys, self.values


class ForeignCache:
    """A cache of `transformers`, in which every call adds the same number of slots to all rows.

    A row that has nothing to add gets a hole. ``positions`` ``[rows, slots]`` are those of the tokens in the slots, -1
    for a hole. A token at a position replaces what the row had at this position and beyond.
    """

    def __init__(self, network: Any, rows: int) -> None:
        self.network = network
        self.layers: list[Slots] = []
        self.positions = torch.empty(rows, 0, dtype=torch.long, device=network.device)

    @property
    def length(self) -> int:
        """There is room for whatever comes."""
        return int(self.network.max_positions)

    def grow(self, length: int) -> None:
        """Nothing: slots are made as tokens come."""

    def select(self, rows: Tensor) -> None:
        self.layers = [layer.changed(lambda x: x.index_select(0, rows)) for layer in self.layers]
        self.positions = self.positions.index_select(0, rows)
        self._pack()

    def prefill(self, token_ids: Tensor, lengths: Sequence[int], start: Sequence[int], rows: Sequence[int]) -> Tensor:
        device = token_ids.device
        if self.positions.shape[1] - int((self.positions >= 0).sum(1).max()) > HOLES:
            self._pack()
        ids = pad_sequence(list(torch.split(token_ids, list(lengths))), batch_first=True)
        size, first = torch.tensor(lengths, device=device), torch.tensor(start, device=device)
        steps = torch.arange(ids.shape[1], device=device)
        positions = torch.where(steps < size[:, None], first[:, None] + steps, -1)
        hidden = self._append(ids, positions, torch.tensor(rows, device=device))
        return hidden[torch.arange(len(size), device=device), size - 1]

    def decode(self, token_ids: Tensor, start: Tensor) -> Tensor:
        return self._append(token_ids[:, None], start[:, None])[:, 0]

    @torch.no_grad()
    def _append(self, ids: Tensor, positions: Tensor, rows: Tensor | None = None) -> Tensor:
        """Hidden states ``[rows, new, width]`` of new tokens at ``positions`` ``[rows, new]``, -1 for padding.

        They are those of ``rows``, or of all rows in their order, which copies nothing.
        """
        before = self.positions if rows is None else self.positions[rows]
        before = torch.where(before < positions[:, :1], before, -1)
        seen = torch.cat((before, positions), dim=1)
        layers = self.layers if rows is None else [layer.changed(lambda x: x[rows]) for layer in self.layers]
        past: Any = Cache(layers=[*layers]) if layers else Cache(layer_class_to_replicate=Slots)
        arguments = {"input_ids": ids, "attention_mask": self._masks(seen, positions), "past_key_values": past}
        if self.network.takes_positions:
            arguments["position_ids"] = positions.clamp(min=0)
        hidden = self.network.decoder(**arguments, use_cache=True).last_hidden_state
        if rows is None:
            self.layers, self.positions = past.layers, seen
        else:
            self._keep(past.layers, seen, rows, ids.shape[1])
        return cast("Tensor", hidden)

    def _masks(self, seen: Tensor, positions: Tensor) -> Any:
        """What new tokens may attend to, ``[rows, 1, new, slots]``: for each kind of layer, where there are several."""
        distance = positions[:, None, :, None] - seen[:, None, None, :]
        visible = (seen[:, None, None, :] >= 0) & (distance >= 0)
        # Padding attends to itself, so that no softmax is over nothing.
        own = torch.arange(seen.shape[1], device=seen.device) - (seen.shape[1] - positions.shape[1])
        visible = visible | (own == torch.arange(positions.shape[1], device=seen.device)[:, None])
        config = self.network.config
        window = getattr(config, "sliding_window", None)
        near = visible & (distance < window) if window else visible
        full, sliding = (
            torch.zeros(m.shape, dtype=self.network.dtype, device=m.device).masked_fill_(~m, -torch.inf)
            for m in (visible, near)
        )
        if getattr(config, "layer_types", None):
            return {"full_attention": full, "sliding_attention": sliding}
        return sliding

    def _keep(self, layers: list[Slots], seen: Tensor, rows: Tensor, new: int) -> None:
        """Take over what the rows have now; the others get holes."""
        count = len(self.positions)
        if len(rows) == count:
            order = torch.argsort(rows)
            self.layers = [layer.changed(lambda x: x[order]) for layer in layers]
            self.positions = seen[order]
            return
        whole = [layer.changed(lambda x: x.new_zeros(count, *x.shape[1:])) for layer in layers]
        for layer, old in zip(whole, self.layers, strict=bool(self.layers)):
            layer.put(old, slice(None), slice(None, -new))
        for layer, changed in zip(whole, layers, strict=True):
            layer.put(changed, rows, slice(None))
        self.layers = whole
        self.positions = nn.functional.pad(self.positions, (0, new), value=-1).index_copy(0, rows, seen)

    def _pack(self) -> None:
        """Move every row's tokens to the front and drop the slots that are left."""
        used = self.positions >= 0
        order = torch.argsort(used.int(), dim=1, descending=True, stable=True)[:, : int(used.sum(1).max())]
        self.positions = self.positions.gather(1, order)
        place = order[:, None, :, None]
        self.layers = [
            layer.changed(lambda x: x.gather(2, place.expand(-1, x.shape[1], -1, x.shape[3]))) for layer in self.layers
        ]
