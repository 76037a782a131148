extension Tokenizer {
    /// Byte pairs merged, the earliest learned first and the leftmost of equals; n bytes take n log n steps.
    func merge(_ bytes: [UInt8]) -> [Int] {
        if wholeWordsFirst, let id = wholeWords[bytes] { return [id] }
        var ids = bytes.compactMap { byteIds[Int($0)] }
        var next = Array(1...max(ids.count, 1))  // of a token that was merged away: -1
        var before = Array(-1..<max(ids.count - 1, 0))
        var waiting = MinHeap()  // rank << 32 | place
        func look(_ place: Int) {
            guard place >= 0, next[place] < ids.count, let merge = lookUp(ids[place], ids[next[place]]) else { return }
            waiting.push(UInt64(merge.rank) << 32 | UInt64(place))
        }
        for place in ids.indices { look(place) }
        while let first = waiting.pop() {
            let place = Int(first & 0xffff_ffff)
            guard next[place] >= 0, next[place] < ids.count,
                let merge = lookUp(ids[place], ids[next[place]]), UInt64(merge.rank) == first >> 32
            else { continue }  // one of the two became another token since
            let gone = next[place]
            ids[place] = Int(merge.id)
            next[place] = next[gone]
            next[gone] = -1
            if next[place] < ids.count { before[next[place]] = place }
            look(place)
            look(before[place])
        }
        var (merged, place) = ([Int](), 0)
        while place < ids.count {
            merged.append(ids[place])
            place = next[place]
        }
        return merged
    }
}

/// A heap whose least number comes first.
private struct MinHeap {
    private var items: [UInt64] = []

    mutating func push(_ item: UInt64) {
        items.append(item)
        var i = items.count - 1
        while i > 0, items[i] < items[(i - 1) / 2] {
            items.swapAt(i, (i - 1) / 2)
            i = (i - 1) / 2
        }
    }

    mutating func pop() -> UInt64? {
        guard let first = items.first else { return nil }
        let last = items.removeLast()
        if items.isEmpty { return first }
        items[0] = last
        var i = 0
        while 2 * i + 1 < items.count {
            var least = 2 * i + 1
            if least + 1 < items.count, items[least + 1] < items[least] { least += 1 }
            if items[i] <= items[least] { break }
            items.swapAt(i, least)
            i = least
        }
        return first
    }
}
