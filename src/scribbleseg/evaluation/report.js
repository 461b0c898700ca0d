// Enlarges a picture on click, with the other pictures of its figure under the arrow keys, and fades its labels.
(() => {
  const page = document.documentElement, large = document.getElementById("large");
  const layers = document.getElementById("layers"), fade = document.getElementById("fade");
  page.classList.add("js");
  if (!large) return;
  const home = layers.parentNode, picture = large.querySelector(".picture");
  let tiles = [], at = 0;
  const show = (step) => {
    at = (at + step + tiles.length) % tiles.length;
    const copy = tiles[at].cloneNode(true);
    copy.tabIndex = -1;
    picture.replaceChildren(copy);
    large.querySelector(".what").textContent = copy.getAttribute("aria-label");
  };
  for (const tile of document.querySelectorAll("figure .tile")) tile.addEventListener("click", () => {
    tiles = [...tile.closest("figure").querySelectorAll(".tile")];
    at = tiles.indexOf(tile);
    show(0);
    large.querySelector(".bar").append(layers);
    large.showModal();
  });
  large.addEventListener("click", (event) => {
    const step = event.target.closest("[data-step]");
    if (step) show(Number(step.dataset.step));
    else if (!event.target.closest(".bar") || event.target.closest(".close")) large.close();
  });
  large.addEventListener("keydown", (event) => {
    if (event.target !== fade) show({ ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? 0);
  });
  large.addEventListener("close", () => home.prepend(layers));
  fade.addEventListener("input", () => page.style.setProperty("--fade", fade.value / 100));
})();
