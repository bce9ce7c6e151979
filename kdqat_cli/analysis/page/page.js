// Draws the attention maps of the chosen sentence, layer and head. A map is one byte per probability, in base64.
"use strict";
(function () {
  const holder = document.getElementById("attention-data");
  if (!holder) return;
  const sentences = JSON.parse(holder.textContent);
  const find = (id) => document.getElementById(id);
  const [sentence, layer, head, maps, said] = ["sentence", "layer", "head", "maps", "said"].map(find);
  const decoded = new Map();

  function bytes(number, name) {
    const key = number + "/" + name;
    if (!decoded.has(key)) {
      decoded.set(key, Uint8Array.from(atob(sentences[number].maps[name]), (one) => one.charCodeAt(0)));
    }
    return decoded.get(key);
  }

  function colour(value) {  // cividis, at five points
    const points = [[0, 34, 78], [65, 77, 107], [124, 123, 120], [188, 174, 108], [254, 232, 56]];
    const place = Math.min(value, 0.9999) * 4, low = Math.floor(place), part = place - low;
    return points[low].map((channel, i) => Math.round(channel + part * (points[low + 1][i] - channel)));
  }

  function draw() {
    const number = Number(sentence.value), one = sentences[number], [layers, heads, length] = one.shape;
    layer.max = layers - 1;
    head.max = heads - 1;
    const at = Math.min(Number(layer.value), layers - 1), by = Math.min(Number(head.value), heads - 1);
    find("layer-number").textContent = at;
    find("head-number").textContent = by;
    const size = length * length, start = (at * heads + by) * size;
    const parts = Object.keys(one.maps).map((name) => [name, bytes(number, name).subarray(start, start + size)]);
    const most = Math.max(1, ...parts.map(([, values]) => values.reduce((a, b) => Math.max(a, b), 0)));
    const spoken = [];
    maps.replaceChildren(...parts.map(([name, values]) => {
      const box = document.createElement("figure"), title = document.createElement("h3");
      const canvas = document.createElement("canvas"), caption = document.createElement("figcaption");
      title.textContent = name;
      canvas.width = canvas.height = length;
      const context = canvas.getContext("2d"), image = context.createImageData(length, length);
      values.forEach((value, i) => image.data.set([...colour(value / most), 255], 4 * i));
      context.putImageData(image, 0, 0);
      let best = 0;
      values.forEach((value, i) => { if (value > values[best]) best = i; });
      const tell = (i) => `${one.tokens[Math.floor(i / length)]} → ${one.tokens[i % length]}: ${(values[i] / 255).toFixed(2)}`;
      caption.textContent = `greatest: ${tell(best)}`;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${name}, layer ${at}, head ${by}. Greatest probability: ${tell(best)}`);
      canvas.addEventListener("mousemove", (event) => {
        const place = canvas.getBoundingClientRect();
        const column = Math.min(length - 1, Math.floor((event.clientX - place.left) / place.width * length));
        const row = Math.min(length - 1, Math.floor((event.clientY - place.top) / place.height * length));
        caption.textContent = tell(Math.max(0, row) * length + Math.max(0, column));
      });
      spoken.push(`${name}: ${tell(best)}`);
      box.append(title, canvas, caption);
      return box;
    }));
    said.textContent = `Layer ${at}, head ${by}. ` + spoken.join(". ");
  }

  for (const control of [sentence, layer, head]) control.addEventListener("input", draw);
  draw();
})();
