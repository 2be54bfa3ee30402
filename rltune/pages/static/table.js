// Tables whose rows stay in place when their values change, so that the keyboard's focus does too.

import { el } from "./dom.js";

// columns: [{ head, of(row) -> text, number: bool, action: label(row) -> text or null }]
export class Table {
  constructor(parent, caption, columns, act) {
    this.columns = columns;
    this.act = act;
    this.body = el("tbody");
    this.empty = el("p", { class: "soft" });
    this.rows = [];
    const heads = columns.map((c) => el("th", { scope: "col", class: c.number ? "number" : null }, c.head));
    this.table = el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, heads)), this.body);
    this.frame = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, this.table);
    parent.append(this.frame, this.empty);
  }

  show(rows, none) {
    this.rows = rows;
    this.frame.hidden = rows.length === 0;
    this.empty.hidden = rows.length > 0;
    this.empty.textContent = none;
    while (this.body.rows.length > rows.length) this.body.deleteRow(-1);
    while (this.body.rows.length < rows.length) this.body.append(this.row(this.body.rows.length));
    rows.forEach((row, k) => this.columns.forEach((column, c) => this.set(this.body.rows[k].cells[c], column, row)));
  }

  row(k) {
    return el("tr", {}, this.columns.map((column) => {
      const cell = el("td", { class: column.number ? "number" : null });
      if (column.action) cell.append(el("button", { type: "button", class: "link", onclick: () => this.act(this.rows[k], column) }));
      return cell;
    }));
  }

  set(cell, column, row) {
    const target = column.action ? cell.firstChild : cell;
    const value = String(column.of(row));
    if (target.textContent !== value) target.textContent = value;
    if (column.action) target.hidden = value === "";
  }
}
