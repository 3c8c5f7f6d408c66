// What several parts of the page share.

export {colourOf} from '/frames.js';

export function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}
