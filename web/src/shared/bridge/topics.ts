import type { Topic } from './types'

/** Counts the subscribers of each topic. */
export class TopicCounts {
  readonly #counts = new Map<Topic, number>()

  get active(): Topic[] {
    return [...this.#counts.keys()]
  }

  /** Add a subscriber. Return the topics that had none before. */
  add(topics: readonly Topic[]): Topic[] {
    const added = topics.filter((topic) => !this.#counts.has(topic))
    for (const topic of topics) this.#counts.set(topic, (this.#counts.get(topic) ?? 0) + 1)
    return added
  }

  /** Remove a subscriber. Return the topics that have none left. */
  remove(topics: readonly Topic[]): Topic[] {
    return topics.filter((topic) => {
      const left = (this.#counts.get(topic) ?? 0) - 1
      if (left > 0) this.#counts.set(topic, left)
      else this.#counts.delete(topic)
      return left <= 0
    })
  }
}
