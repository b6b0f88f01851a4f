from flows.console import error_table
from pipeline.metrics import ErrorRow


def row(lead: int, coverage: dict[str, float]) -> ErrorRow:
    errors = {"forecast": 1.0, "extrapolation": 2.0, "persistence": 4.0}
    return ErrorRow(lead, "rain", "mm", errors, errors, coverage)


def test_a_table_of_forecasts_without_intervals_has_no_column_of_them() -> None:
    table = error_table([row(5, {})], "Errors")
    assert [column.header for column in table.columns] == ["lead", "forecast", "extrapolation", "", "persistence", ""]
    assert table.caption is None


def test_coverage_stands_beside_the_errors_where_it_is_known() -> None:
    table = error_table([row(5, {"forecast": 0.784}), row(10, {}), row(15, {"forecast": float("nan")})], "Errors")
    assert list(table.columns[-1].cells) == ["78%", "-", "-"]
    assert "80 %" in str(table.caption)
