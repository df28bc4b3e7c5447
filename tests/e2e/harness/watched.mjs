import { EventEmitter } from 'node:events';

/** Long enough for a loaded machine with two cores; nothing that works comes near it. */
export const PATIENCE_MS = 60_000;

/** Something that changes, and can be waited on until it is as wanted. */
export class Watched {
  #changes = new EventEmitter().setMaxListeners(0);

  notify() {
    this.#changes.emit('change');
  }

  /** @param {() => unknown} condition looked at now and at each change; may throw */
  async until(condition, what) {
    if (condition()) return;
    await new Promise((resolve, reject) => {
      const look = () => {
        try {
          if (!condition()) return;
          done();
          resolve();
        } catch (error) {
          done();
          reject(error);
        }
      };
      const timer = setTimeout(() => {
        done();
        reject(new Error(`waited in vain for ${typeof what === 'function' ? what() : what}`));
      }, PATIENCE_MS);
      const done = () => {
        clearTimeout(timer);
        this.#changes.off('change', look);
      };
      this.#changes.on('change', look);
    });
  }
}
