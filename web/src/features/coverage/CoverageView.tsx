export default function CoverageView() {
  return <h1>Coverage</h1>
}
