import HimixCore
import HimixCoreML
import SwiftUI
import UniformTypeIdentifiers

/// What is loaded, and picking another bundle in Files.
struct BundleView: View {
    @Environment(AppModel.self) private var model
    @State private var picks = false

    var body: some View {
        NavigationStack {
            Form {
                if let note = model.note {
                    Section { Text(note) }
                }
                if let opened = model.opened {
                    facts(opened)
                } else {
                    Section { WaitingView() }
                }
                Section {
                    Button("Pick a bundle in Files") { picks = true }
                        .disabled(model.busy)
                    if BundleStore.marker.leavesOutPicked, BundleStore.picked != nil {
                        Button("Open the picked bundle again") { Task { await model.openPickedAgain() } }
                            .disabled(model.busy)
                    }
                    if BundleStore.shipped != nil {
                        Button("Use the bundle that the app came with") { Task { await model.useShipped() } }
                            .disabled(model.busy)
                    }
                } footer: {
                    Text("It is copied into the app. Every file has to have the size and hash that the manifest says.")
                }
            }
            .navigationTitle("Bundle")
        }
        .fileImporter(isPresented: $picks, allowedContentTypes: [.folder]) { result in
            switch result {
            case .success(let folder): Task { await model.openPicked(folder) }
            case .failure(let error): model.problem = error.localizedDescription
            }
        }
    }

    private func facts(_ opened: OpenedModel) -> some View {
        let manifest = opened.bundle.manifest
        return Section("Loaded, every file checked") {
            LabeledContent("Name", value: manifest.name)
            LabeledContent("Weights", value: manifest.quantisation.precision)
            LabeledContent("Size", value: Int64(manifest.totalBytes).formatted(.byteCount(style: .file)))
            LabeledContent("Context", value: "\(manifest.contextCapacity) tokens, \(manifest.visionTokens) an image")
            Milliseconds(name: "Check and load", value: opened.load.milliseconds)
            LabeledContent("Computes on", value: opened.units.rawValue)
            ForEach(opened.notes, id: \.self) { note in Text(note).font(.footnote) }
        }
    }
}
