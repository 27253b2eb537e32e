"""A notification when an item of a shop runs out of stock."""

import msgspec

from nx_signal.plugin import Activity, Amount, EventType, Message, MessageArguments, Value, money, one_line


class Item(msgspec.Struct):
    name: str
    price: Amount
    currency: str | None = None


class StockData(msgspec.Struct):
    item: Item
    left: int = 0


class StockLow(EventType[StockData]):
    LEFT = Message("stock_low.left", ("count", "item", "price"))
    GONE = Message("stock_low.gone", ("item", "when"))

    name = "STOCK_LOW"
    schema = StockData
    messages = (LEFT, GONE)
    examples = (
        {"item": {"name": "Green tea", "price": 45000}, "left": 1},
        {"item": {"name": "Green tea", "price": 45000}, "left": 3},
        {"item": {"name": "Green tea", "price": "1.90", "currency": "USD"}},
    )

    def message_arguments(self, data: StockData, activity: Activity) -> MessageArguments:
        item = one_line(data.item.name)
        price = money(data.item.price, data.item.currency, "data.item.price")
        if data.left > 0:
            values: dict[str, Value] = {"count": data.left, "item": item, "price": price}
            return MessageArguments(self.LEFT, values)
        return MessageArguments(self.GONE, {"item": item, "when": activity.occurred_at})
