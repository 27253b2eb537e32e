from acme_stock import StockLow

from nx_signal.testing import check


def test_the_examples_are_rendered_in_each_language() -> None:
    texts = [(rendered.locale, rendered.content) for rendered in check(StockLow)]
    assert ("en", "The last Green tea (₫45,000) is left") in texts
    assert ("en", "Only 3 of Green tea (₫45,000) are left") in texts
    assert len(texts) == 6
